"""training.minutes: so many steps as fit into the time, the same ones after a restart."""

import json

import pytest
import torch

from lra.config.compose import composed
from lra.errors import UserError
from lra.launch import job, minutes
from lra.records.store import load
from lra.task import TaskSpec
from lra.training.config import Hardware, Training


@pytest.fixture
def words(tmp_path):
    folders = [f"results={tmp_path}/results", f"runs={tmp_path}/runs", f"data.root={tmp_path}/data"]
    small = ["task=listops", "model=fnet", "scale=smoke", "data.source=toy", "wandb.mode=disabled", "trainer=cpu"]
    return [*small, *folders, "training.minutes=0.02"]


def test_run_has_the_estimated_steps_and_says_so(words, tmp_path):
    assert job.one(**composed(words)) == 0
    (path,) = (tmp_path / "results").rglob("*.json")
    (estimate,) = (json.loads(p.read_text()) for p in (tmp_path / "runs").rglob("steps.json"))
    record = load(path)
    assert record.steps_done == record.steps_total == estimate["steps"] > 1
    assert record.variant == ["training.minutes=0.02"]
    assert any(note.startswith("training.minutes=0.02: ") for note in record.notes)


def test_any_objective_and_schedule_can_be_timed(words, tmp_path):
    made_up = [word for word in words if not word.startswith(("task=", "model="))]
    more = ["task=etth1", "model=s4", "task.context=20", "training.schedule=plateau"]
    assert job.one(**composed([*more, *made_up])) == 0
    (path,) = (tmp_path / "results").rglob("*.json")
    assert load(path).objective == "regression"


def test_estimate_fills_the_time_and_is_kept(tmp_path, monkeypatch):
    class Data:
        batch_size, eval_batch_size, spec = 4, 8, TaskSpec("test", 8, 2, 3)

    class StepTimer:
        def __init__(self, *_):
            torch.rand(3)  # random numbers that the run must not miss

        train = evaluate = lambda *_: 0.5

    class Batches:
        sizes, of = (100, 16, 32), lambda *_: None
        __init__ = lambda *_: None  # noqa: E731

    monkeypatch.setattr(minutes, "StepTimer", StepTimer)
    monkeypatch.setattr(minutes, "Batches", Batches)
    training = Training(epochs=3, minutes=1, validations=4)
    about = {"data": Data(), "model": torch.nn.Linear(1, 1), "optimizer": {}, "folder": tmp_path}
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found, notes = minutes.in_steps(training, hardware=Hardware(accelerator="cpu"), **about)
    # 60 s less one test of 4 batches and 4 validations of 2 batches, half a second each
    assert (found.steps, found.epochs, found.minutes, found.validations) == (108, None, None, 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(notes) == 1
    monkeypatch.setattr(minutes, "measure", None)
    assert minutes.in_steps(training, hardware=Hardware(accelerator="cpu"), **about)[0] == found


def test_other_runs_stay_as_they_are_and_several_processes_are_refused(tmp_path):
    training = Training(steps=5)
    about = {"data": None, "model": None, "optimizer": {}, "folder": tmp_path}
    assert minutes.in_steps(training, hardware=Hardware(), **about) == (training, [])
    with pytest.raises(UserError, match=r"training\.minutes.*single process"):
        minutes.in_steps(Training(minutes=1), hardware=Hardware(devices=2), **about)
