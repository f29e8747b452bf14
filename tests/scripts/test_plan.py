"""Costs of jobs from real steps, and of grids from their jobs."""

import json

import pytest

from helpers.records import replace
from lra.console import duration
from lra.launch import cost, plan
from lra.launch.grid import cells_of
from lra.paths import ROOT
from lra.records import environment
from lra.records.store import load

GOLDEN = load(ROOT / "tests" / "golden" / "record.json")


@pytest.mark.parametrize("source", ["toy", "nowhere"])
def test_measured_with_real_or_random_data(source, tmp_path):
    words = ["task=image", "model=fnet", "scale=smoke", "trainer=cpu", "trainer.threads=1", f"data.root={tmp_path}"]
    if source == "toy":
        cost.instantiate(cost.composed(words)["cfg"].task).prepare_data()
    found = cost.measure(words, patience=5.0)
    assert found["real_batches"] == (source == "toy")
    assert found["measured_batch"] == found["batch"]
    assert found["seconds"] > found["steps"] * found["step_seconds"] > 0
    assert found["memory_mib"] > 0


def test_slow_batch_is_measured_in_part(tmp_path):
    words = ["task=image", "model=fnet", "scale=smoke", "trainer=cpu", "trainer.threads=1", f"data.root={tmp_path}"]
    assert cost.measure(words, patience=1e-9)["measured_batch"] == 1


def test_cost_is_training_validation_and_test(monkeypatch, tmp_path):
    monkeypatch.setattr(cost, "measure_steps", lambda timer, batches, batch, patience: (batch, 2.0, 100.0))
    monkeypatch.setattr(cost.StepTimer, "evaluate", lambda self, batch: 0.5 * len(batch.y))
    words = ["task=image", "model=fnet", "scale=smoke", "trainer=cpu", "data.source=toy", f"data.root={tmp_path}"]
    words += ["task.batch_size=8", "task.eval_batch_size=20", "training.steps=40", "training.validations=4"]
    found = cost.measure(words, patience=5.0)
    # 64 examples of each split: four batches; half a second an example, of which 16 are measured
    assert found["evaluation_seconds"] == 10.0
    assert 0 < found["seconds"] - (40 * 2.0 + (4 + 1) * 4 * 10.0) < 60


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """Two seeds of two models in a variant; there is a measurement of the first model alone."""
    cells = cells_of(["fnet", "s4"], ["image"], range(2), "smoke", tmp_path / "runs", ["training.steps=7"])
    here = {"processor": environment.processor_name(), "cores": environment.cores(), "device": plan.device_name()}
    line = {"model": "fnet", "task": "image", "scale": "smoke", "variant": "training.steps=7", **here}
    line |= {"seconds": 3600.0, "memory_mib": 100.0, "measured_batch": 4, "batch": 32, "when": "2026-01-31T12:00:00Z"}
    elsewhere = [line | {"model": "s4", "cores": -1}, line | {"model": "s4", "device": "another"}]
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    monkeypatch.setattr(plan, "KNOWN", tmp_path / "plan.json")
    plan.KNOWN.write_text(json.dumps([line, *elsewhere]))
    return cells


def columns(table) -> dict[str, list]:
    return {column.header: list(column.cells) for column in table.columns}


def test_cost_of_a_grid_and_unknown_jobs(cells):
    assert list(map(plan.known(cells), cells)) == [3600.0, None] * 2
    shown = columns(plan.table_of(cells, jobs=2))
    assert shown["model"] == ["fnet", "s4", "all"]
    assert shown["runs"] == ["2", "2", "4"]
    assert shown["time of one"] == [duration(3600), "?", f"at least {duration(3600)}"]
    assert shown["memory"] == ["100 MiB", "?", "200 MiB"]
    assert shown["known from"][0] == "measured with 4 of 32, 2026-01-31"
    assert shown["known from"][2].startswith("2 of 4 runs unknown")
    page = plan.markdown(cells[:2])
    assert "| fnet | 1 h, 100 MiB | 1 h |" in page
    assert "| s4 | ? | 0 h and more |" in page
    assert "(of large batches only a part was measured, time and memory are scaled up)" in page


def test_slowest_record_on_the_same_hardware_counts(cells):
    device, processor, cores = plan.device_name(), environment.processor_name(), environment.cores()
    here = {"device": device, "processor": processor, "cores": cores}
    for seed, seconds, hardware in ((0, 7200.0, here), (1, 1800.0, here), (2, 9000.0, here | {"cores": 1000})):
        record = replace(
            GOLDEN, model="s4", task="image", scale="smoke", variant=["training.steps=7"], seed=seed,
            total_seconds=seconds, train_seconds=1.0, hardware=replace(GOLDEN.hardware, **hardware),
        )  # fmt: skip
        record.write(record.path(cells[0].results))
    unfinished = replace(record, seed=3, status="diverged", reason="NaN", hardware=replace(GOLDEN.hardware, **here))
    unfinished.write(unfinished.path(cells[0].results))
    shown = columns(plan.table_of(cells))
    assert shown["time of one"] == [duration(3600), duration(7200), duration(2 * 3600 + 2 * 7200)]
    assert shown["known from"] == ["measured with 4 of 32, 2026-01-31", "record of seed 0", "6.00 device hours"]
