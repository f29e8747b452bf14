"""Records come back from W&B byte for byte, and replace only those of unfinished runs."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.records import replace
from lra import tracking
from lra.paths import ROOT
from lra.records.store import load
from scripts import wandb_pull

RECORD = load(ROOT / "tests" / "golden" / "record.json")
STOPPED = {"test_score": None, "test_totals": None}


def interrupted(**given):
    return replace(RECORD, status="interrupted", reason="stopped", **STOPPED, **given)


class Project:
    """Fake wandb.Api of a project whose runs hold these records."""

    def __init__(self, **texts: str | None):
        self.texts = texts

    def runs(self, path):
        assert path == "me/lra"
        return [SimpleNamespace(id=name, files=self.files(text)) for name, text in self.texts.items()]

    def files(self, text):
        def download(root, replace):
            path = Path(root) / "record.json"
            path.write_text(text)
            return path.open()

        def files(names):
            assert names == [tracking.RECORD]
            return iter([] if text is None else [SimpleNamespace(download=download)])

        return files


def call(monkeypatch, capsys, *words, api=None) -> tuple[int, str, str]:
    if api is not None:
        monkeypatch.setattr(tracking, "has_key", lambda: True)
        monkeypatch.setattr("wandb.Api", lambda timeout: api)
    monkeypatch.setattr(sys, "argv", ["wandb_pull.py", *map(str, words)])
    try:
        status = wandb_pull.main()
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def offline_run(folder: Path, name: str, text: str | None) -> None:
    (folder / name / "files").mkdir(parents=True)
    if text is not None:
        (folder / name / "files" / "record.json").write_text(text)


def test_records_of_a_project_are_identical(tmp_path, monkeypatch, capsys):
    other = replace(RECORD, seed=1, wandb="https://wandb.ai/me/lra/runs/b")
    for r in (RECORD, other):
        r.write(r.path(tmp_path / "there"))
    api = Project(a=RECORD.text(), b=other.text(), running=None)
    status, out, _ = call(monkeypatch, capsys, "me/lra", "--results", tmp_path / "here", api=api)
    assert status == 0
    assert "me/lra/running: has no record" in out
    assert "2 records: 2 new" in out
    for r in (RECORD, other):
        assert r.path(tmp_path / "here").read_bytes() == r.path(tmp_path / "there").read_bytes()
        assert load(r.path(tmp_path / "here")) == r
    assert (
        "0 new, 0 replaced, 2 same" in call(monkeypatch, capsys, "me/lra", "--results", tmp_path / "here", api=api)[1]
    )


def test_records_of_offline_folders(tmp_path, monkeypatch, capsys):
    offline_run(tmp_path, "wandb/offline-run-1", RECORD.text())
    offline_run(tmp_path, "wandb/run-2", replace(RECORD, seed=3).text())
    offline_run(tmp_path, "wandb/offline-run-3", "")
    status, out, _ = call(monkeypatch, capsys, "--offline", tmp_path, "--results", tmp_path / "here")
    assert (status, out.count("has no record")) == (0, 1)
    assert sorted(p.name for p in (tmp_path / "here").rglob("*.json")) == ["0.json", "3.json"]


def test_latest_finished_run_counts(tmp_path, monkeypatch, capsys):
    later = replace(RECORD, finished="2026-03-01T00:00:00Z")
    stopped = interrupted(finished="2026-04-01T00:00:00Z")
    api = Project(a=later.text(), b=RECORD.text(), c=stopped.text())
    call(monkeypatch, capsys, "me/lra", "--results", tmp_path, api=api)
    assert load(RECORD.path(tmp_path)) == later


def test_local_record_stays_unless_unfinished_or_forced(tmp_path, monkeypatch, capsys):
    path = RECORD.path(tmp_path)
    words = ["me/lra", "--results", tmp_path]
    other = replace(RECORD, notes=["made elsewhere"], finished="2026-03-01T00:00:00Z")
    RECORD.write(path)
    _, out, _ = call(monkeypatch, capsys, *words, api=Project(a=other.text()))
    assert f"kept: {path}; it differs, --force replaces it" in out
    assert load(path) == RECORD
    call(monkeypatch, capsys, *words, "--force", api=Project(a=other.text()))
    assert load(path) == other
    for status in ("interrupted", "crashed"):
        replace(interrupted(), status=status).write(path)
        _, out, _ = call(monkeypatch, capsys, *words, api=Project(a=RECORD.text()))
        assert f"replaced: {path}" in out
        assert load(path) == RECORD
    later, earlier = (interrupted(finished=f"2026-0{month}-01T00:00:00Z") for month in (4, 3))
    later.write(path)
    assert f"kept: {path}" in call(monkeypatch, capsys, *words, api=Project(a=earlier.text()))[1]
    assert load(path) == later


def test_unreadable_record_is_named(tmp_path, monkeypatch, capsys):
    wrong = json.dumps({**json.loads(RECORD.text()), "seed": "none"})
    api = Project(a=wrong, b=RECORD.text())
    status, out, _ = call(monkeypatch, capsys, "me/lra", "--results", tmp_path, api=api)
    assert status == 1
    assert "unreadable: me/lra/a: seed is 'none'" in out
    assert load(RECORD.path(tmp_path)) == RECORD


def test_lost_connection_is_one_line(tmp_path, monkeypatch, capsys):
    class Gone:
        def runs(self, path):
            raise ConnectionError("connection refused\nand more")

    status, out, err = call(monkeypatch, capsys, "me/lra", "--results", tmp_path, api=Gone())
    assert (status, out) == (2, "")
    assert err == "wandb_pull.py: me/lra: W&B did not answer (connection refused)\n"


def test_missing_key_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(tracking, "has_key", lambda: False)
    status, out, err = call(monkeypatch, capsys, "me/lra")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("wandb_pull.py: no W&B key on this machine; hint: ")


@pytest.mark.parametrize("words", [[], ["me/lra", "--offline", "wandb"]])
def test_exactly_one_source(words, monkeypatch, capsys):
    status, _, err = call(monkeypatch, capsys, *words)
    assert status == 2
    assert "give either" in err


def test_a_missing_folder_is_one_line(monkeypatch, capsys):
    assert call(monkeypatch, capsys, "--offline", "nowhere") == (2, "", "wandb_pull.py: there is no folder nowhere\n")
