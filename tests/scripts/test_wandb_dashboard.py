"""Workspace and report of an online W&B project."""

import json
import re
import sys

import pytest

from helpers.made_up_runs import ran
from lra import tracking
from lra.paths import ROOT
from lra.records.published import TASKS
from scripts import wandb_dashboard

SOURCES = "".join((ROOT / name).read_text() for name in ("lra/tracking.py", "lra/training/learning_curve.py"))
LOGGED = {"val/accuracy", *tracking.summary_of(ran("s4", "listops", 500))}  # metrics have the objective's names


def call(monkeypatch, capsys, *words) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["wandb_dashboard.py", *words])
    try:
        status = wandb_dashboard.main()
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def sent(monkeypatch, capsys) -> tuple[dict, dict]:
    status, out, _ = call(monkeypatch, capsys, "me/lra", "--scale", "mini", "--dry-run")
    assert status == 0
    content = json.loads(out)
    return content["workspace"], content["report"]


def test_report_has_a_chapter_for_each_task(monkeypatch, capsys):
    _, report = sent(monkeypatch, capsys)
    text = json.dumps(report)
    for task, title in TASKS.items():
        assert f'"{title}"' in text
        assert f'"value": "{task}"' in text
    assert '"value": "mini"' in text
    assert '"value": "paper"' not in text


def test_runs_of_other_tasks_scales_and_variants_are_never_averaged(monkeypatch, capsys):
    workspace, report = sent(monkeypatch, capsys)
    assert set(re.findall(r'"groupBy": "(\w+)', json.dumps([workspace, report]))) == {"row"}
    keys = re.search(r'"grouping": \[(.*?)\]', json.dumps(workspace))[1]
    assert re.findall(r'"name": "(\w+)', keys) == ["scale", "task", "model", "variant"]
    text = json.dumps(report)
    assert text.count('"name": "variant"') >= len(TASKS)
    assert text.count('"value": "ok"') == len(TASKS)


def test_panels_show_logged_metrics(monkeypatch, capsys):
    workspace, report = (json.dumps(part) for part in sent(monkeypatch, capsys))
    for name in ("val/accuracy", "train/loss", "test/accuracy", "steps_per_second", "parameters", "examples"):
        assert f'"{name}"' in SOURCES or name in LOGGED, name
        assert name in workspace, name
        assert name in report, name
    for column in wandb_dashboard.COLUMNS:
        kind, _, name = column.partition(":")
        assert f'"{name.removesuffix(".value")}"' in SOURCES or name in LOGGED, column
        assert kind in ("summary", "config")


def test_both_are_saved_and_addresses_printed(monkeypatch, capsys):
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    saved = []
    for kind in (wr.Report, ws.Workspace):
        monkeypatch.setattr(kind, "save", lambda self: saved.append(type(self).__name__))
        monkeypatch.setattr(kind, "url", property(lambda self: f"https://wandb.ai/{self.entity}/{self.project}"))
    monkeypatch.setattr(tracking, "has_key", lambda: True)
    assert call(monkeypatch, capsys, "me/lra") == (0, "https://wandb.ai/me/lra\n" * 2, "")
    assert saved == ["Workspace", "Report"]


@pytest.mark.parametrize("failure", ["no key", "no network", "no project"])
def test_failure_is_one_line(failure, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "has_key", lambda: failure != "no key")
    if failure == "no network":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        monkeypatch.setattr(
            "wandb_workspaces.workspaces.internal.upsert_view2",
            lambda view: (_ for _ in ()).throw(ConnectionError("connection refused")),
        )
    status, _, err = call(monkeypatch, capsys, "melra" if failure == "no project" else "me/lra")
    assert status == {"no key": 2, "no network": 1, "no project": 2}[failure]
    assert {"no key": "no W&B key", "no network": "connection refused", "no project": "not ENTITY/PROJECT"}[
        failure
    ] in err.splitlines()[-1]
    assert "Traceback" not in err
