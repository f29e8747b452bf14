"""The commands that read records: what they write, and one line for what they cannot."""

import runpy
import sys

import pytest

from helpers.made_up_runs import ZOO, paper
from lra.paths import ROOT
from lra.tables.formats import markdown


def test_making_tables_twice_changes_nothing(tmp_path, monkeypatch, capsys):
    def make() -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "scripts" / "tables.py"), run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    for record in ZOO:
        record.write(record.path(tmp_path / "runs"))
    monkeypatch.setattr(sys, "argv", ["tables.py", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "tables")])
    first = make()
    before = {p.name: p.read_bytes() for p in (tmp_path / "tables").iterdir()}
    assert make() == first
    assert {p.name: p.read_bytes() for p in (tmp_path / "tables").iterdir()} == before
    assert before["paper.md"].decode() == markdown(paper(ZOO))
    (tmp_path / "runs" / "paper" / "s4" / "listops" / "0.json").write_text("{}")
    code, out, err = make()
    assert (code, out) == (1, "")
    assert "0.json: schema is None" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("script", ["tables", "report", "audit"])
def test_a_folder_that_is_not_there_is_an_error(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--runs", str(tmp_path / "misspelt")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    assert ended.value.code == 2
    assert "misspelt" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["tables", "report"])
def test_a_place_that_cannot_be_written_is_one_clear_line(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", [script, "--runs", str(tmp_path), "--out", str(tmp_path / "file" / "out")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert said.count("\n") == 1
    assert "file" in said
