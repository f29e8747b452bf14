"""Workspace and report of an online W&B project."""

import json
import re
import sys

import pytest
import wandb

from helpers.made_up_runs import ran
from helpers.wandb_server import wandb_server
from lra import tracking
from lra.objectives.objective import objectives
from lra.paths import ROOT
from lra.records.published import TASKS
from lra.tables.other_tasks import OTHER_TABLES, TASKS_OF_OTHERS
from scripts import wandb_dashboard

SOURCES = "".join((ROOT / name).read_text() for name in ("lra/tracking.py", "lra/training/learning_curve.py"))
METRICS = {metric.name for objective in objectives() for metric in objective.metrics}  # as the learner logs them
LOGGED = {f"{split}/{name}" for split in ("val", "test") for name in METRICS}
LOGGED |= {*tracking.summary_of(ran("s4", "listops", 500))}


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


def chapters(report: dict) -> list[tuple[str, list[str], str, set[str]]]:
    """(title, tasks, key that runs are ordered by, metrics in panels) of each chapter."""
    found, title = [], ""
    for block in report["spec"]["blocks"]:
        if block["type"] == "heading":
            title = block["children"][0]["text"]
        for runs in block.get("metadata", {}).get("runSets", []):
            tasks = [task for f in runs["filters"]["filters"] if f["key"]["name"] == "task" for task in f["value"]]
            order = ":".join(runs["sort"]["keys"][0]["key"].values())
            panels = json.dumps(block["metadata"]["panelBankSectionConfig"])
            found.append((title, tasks, order, set(re.findall(r"(?:val|test)/\w+", panels))))
    return found


def test_every_task_has_a_chapter_with_the_metrics_of_its_objective(monkeypatch, capsys):
    _, report = sent(monkeypatch, capsys)
    found = chapters(report)
    assert [title for title, *_ in found[: len(TASKS)]] == list(TASKS.values())
    assert {task for _, tasks, *_ in found for task in tasks} == {*TASKS, *TASKS_OF_OTHERS}
    objective = {s.task: t.objective for t in OTHER_TABLES.values() for s in t.settings}
    for _, tasks, order, panels in found:
        (name,) = {objective.get(task, "classification") for task in tasks}
        metrics = [metric.name for each in objectives() if each.name == name for metric in each.metrics]
        assert order == f"summary:test/{metrics[0]}"
        assert panels == {f"{split}/{metric}" for split in ("val", "test") for metric in metrics}
    text = json.dumps(report)
    assert '"value": "mini"' in text
    assert '"value": "paper"' not in text


def test_runs_of_other_tasks_scales_and_variants_are_never_averaged(monkeypatch, capsys):
    workspace, report = sent(monkeypatch, capsys)
    assert set(re.findall(r'"groupBy": "(\w+)', json.dumps([workspace, report]))) == {"row"}
    keys = re.search(r'"grouping": \[(.*?)\]', json.dumps(workspace))[1]
    assert re.findall(r'"name": "(\w+)', keys) == ["scale", "task", "model", "variant"]
    text = json.dumps(report)
    assert text.count('"name": "variant"') >= len(chapters(report))
    assert text.count('"value": "ok"') == len(chapters(report))


def test_panels_show_logged_metrics(monkeypatch, capsys):
    workspace, report = (json.dumps(part) for part in sent(monkeypatch, capsys))
    for name in ("val/accuracy", "train/loss", "test/accuracy", "steps_per_second", "parameters", "examples"):
        assert f'"{name}"' in SOURCES or name in LOGGED, name
        assert name in workspace, name
        assert name in report, name
    sections = {metric for metric in METRICS if f"val/{metric}" in workspace and f"test/{metric}" in workspace}
    assert sections == METRICS
    for column in wandb_dashboard.COLUMNS:
        kind, _, name = column.partition(":")
        assert f'"{name.removesuffix(".value")}"' in SOURCES or name in LOGGED, column
        assert kind in ("summary", "config")


def test_both_are_saved_and_addresses_printed(monkeypatch, capsys, tmp_path):
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with wandb_server() as service:
        monkeypatch.setenv("WANDB_BASE_URL", service.url)
        wandb.teardown()
        status, out, _ = call(monkeypatch, capsys, "me/lra", "--scale", "mini")
        wandb.teardown()
    assert (status, service.unknown) == (0, [])
    view, report = out.splitlines()
    assert view.startswith(f"{service.url}/me/lra?nw=")
    assert report.startswith(f"{service.url}/me/lra/reports/Long-Range-Arena,-scale-mini--")
    assert service.views["project-view"]["displayName"] == "Long Range Arena"
    assert '"value": "mini"' in json.dumps(service.views["runs"]["spec"])


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
