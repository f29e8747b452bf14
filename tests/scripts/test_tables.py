"""The scripts that read results: their files, and one-line errors."""

import runpy
import sys

import pytest

from helpers.made_up_runs import ZOO, paper
from lra.paths import ROOT
from lra.tables.formats import markdown


@pytest.fixture
def call(monkeypatch, capsys):
    def run(script: str, *options: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [script, *map(str, options)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    return run


def test_tables_are_reproducible(call, tmp_path):
    def files() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (tmp_path / "tables").iterdir()}

    for record in ZOO:
        record.write(record.path(tmp_path / "runs"))
    options = ["--runs", tmp_path / "runs", "--out", tmp_path / "tables"]
    first, before = call("tables", *options), files()
    assert call("tables", *options) == first
    assert files() == before
    assert before["paper.md"].decode() == markdown(paper(ZOO))
    (tmp_path / "runs" / "paper" / "s4" / "listops" / "0.json").write_text("{}")
    code, out, error = call("tables", *options)
    assert (code, out, error.count("\n")) == (1, "", 1)
    assert "0.json: schema is None" in error


@pytest.mark.parametrize("script", ["tables", "report", "audit"])
def test_missing_folder_is_an_error(script, call, tmp_path):
    code, _, error = call(script, "--runs", tmp_path / "misspelt")
    assert code == 2
    assert "misspelt" in error


@pytest.mark.parametrize("script", ["tables", "report"])
def test_unwritable_folder_is_one_line(script, call, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, error = call(script, "--runs", tmp_path, "--out", tmp_path / "file" / "out")
    assert (code, error.count("\n")) == (1, 1)
    assert "file" in error
