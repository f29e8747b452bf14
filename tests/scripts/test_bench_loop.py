"""What a run costs beside its steps is told apart from the steps."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from lra import lean
from scripts import bench_loop


def test_work_and_the_rest_of_a_step_are_told_apart(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("scripts.bench_loop.time.perf_counter", lambda: clock[0])

    def work():
        clock[0] += 3.0

    watch, learner = bench_loop.Stopwatch(), SimpleNamespace(optimizer_step=work)
    watch.setup(SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu"))), learner, "fit")
    for step in range(bench_loop.WARM + 10):
        clock[0] += 1.0 if step >= bench_loop.WARM else 100.0  # fetching the batch
        learner.optimizer_step()
        watch.on_train_batch_end(None, learner, None, None, step)
    answer = watch.answer()
    assert (answer["step"], answer["work"]) == (pytest.approx(4.0), pytest.approx(3.0))


@pytest.mark.nightly
def test_a_run_is_watched_as_a_user_starts_it(tmp_path):
    words = ["task=listops", "model=fnet", "scale=smoke", "trainer=cpu", "trainer.threads=1", "wandb.mode=disabled"]
    row = bench_loop.watched([*words, "training.steps=8", f"data.root={tmp_path}"])
    assert 0 < row["work ms"] < row["step ms"]
    assert row["host ms"] == pytest.approx(row["step ms"] - row["work ms"])
    assert row["first step s"] > row["step ms"] / 1e3


@pytest.mark.nightly
def test_the_watch_starts_as_a_user_does(tmp_path):
    """Its own imports came first once, without what keeps the script's small, and were two thirds of the start."""
    command = [sys.executable, "-X", "importtime", "-m", "scripts.bench_loop", tmp_path / "answer.json", "task=none"]
    done = subprocess.run(command, cwd=bench_loop.ROOT, capture_output=True, text=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "pytorch_lightning" in loaded
    assert loaded & set(lean.OPTIONAL) <= {"scipy"}, done.stderr[-300:]
