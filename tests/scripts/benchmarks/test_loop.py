"""Overhead of a run, apart from its training steps."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import loop


def test_work_and_host_time_are_separated(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("benchmarks.loop.time.perf_counter", lambda: clock[0])

    def work():
        clock[0] += 3.0

    watch, learner = loop.Stopwatch(), SimpleNamespace(training_step=work)
    watch.setup(SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu"))), learner, "fit")
    for step in range(loop.WARMUP + 10):
        clock[0] += 1.0 if step >= loop.WARMUP else 100.0  # fetching the batch
        learner.training_step()
        watch.on_train_batch_end(None, learner, None, None, step)
    answer = watch.answer()
    assert (answer["step"], answer["work"]) == (pytest.approx(4.0), pytest.approx(3.0))


@pytest.mark.nightly
def test_watched_run(tmp_path):
    words = ["task=listops", "model=fnet", "scale=smoke", "trainer=cpu", "trainer.threads=1", "wandb.mode=disabled"]
    row = loop.watched([*words, "training.steps=8", f"data.root={tmp_path}"])
    assert 0 < row["work ms"] < row["step ms"]
    assert row["host ms"] == pytest.approx(row["step ms"] - row["work ms"])
    assert row["first step s"] > row["step ms"] / 1e3
