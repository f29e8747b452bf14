"""A run killed at any moment and started again ends bit for bit like one that was never interrupted."""

import os
import random
import signal
import time
from collections import Counter

import pytest

from helpers.processes import Process
from helpers.whole_runs import Run, assert_same


def stop(run: Run, process: Process, how: str, rng: random.Random) -> str:
    """Stop a run in one of several ways; returns when it was hit, or "" if it had ended before.

    startup   SIGKILL at a random moment of the first two seconds
    saving    SIGKILL while a checkpoint is being written
    training  SIGKILL at a random moment of training
    sigterm   SIGTERM at a random moment of training
    one       SIGKILL to one of several processes, as when a machine dies; the others must end by themselves
    ending    SIGKILL after the weights are written and before the record is
    """
    if how == "startup":
        time.sleep(rng.uniform(0, 2))
        process.kill()
        return how
    if how == "ending":
        written = process.until(lambda: any((run.place / "runs").rglob("model.safetensors")))
        process.kill()
        return how if written else ""
    if not process.until(run.saved_since(run.checkpoint())):
        return ""
    time.sleep(rng.uniform(0, 0.25))
    if how == "saving":
        if not process.until(run.saving):
            return ""
        process.kill()
        return "saving" if run.saving() else "training"
    if how == "one":
        os.kill(rng.choice(process.pids), signal.SIGKILL)
        return how
    process.kill(signal.SIGTERM if how == "sigterm" else signal.SIGKILL)
    return how


def stop_and_resume(run: Run, stops: list[str], rng: random.Random) -> Counter:
    """Start and stop the run once per entry of `stops`, then let it finish; counts the hits by kind."""
    hits: Counter = Counter()
    for how in stops:
        process = run.process()
        hit = stop(run, process, how, rng)
        statuses = process.wait_for_all()
        if set(statuses) == {0}:
            break
        hits[hit] += hit != ""
        if hit == "one":
            assert sorted(statuses) == [-signal.SIGKILL, 1], run.output()
        elif hit == "ending":
            # the first process writes weights and record; the others may have finished by then
            assert statuses[0] == -signal.SIGKILL, run.output()
            assert set(statuses) <= {-signal.SIGKILL, 0}, run.output()
        else:
            assert set(statuses) in ({-signal.SIGKILL}, {130}, {130, 0}), run.output()
        assert "Traceback" not in run.output()
    assert run.process().wait() == 0, run.output()
    return +hits


def check_resume(start, place, stops: list[str], *words: str, seed: str, world: int = 1) -> int:
    """A run stopped in each of these ways equals an uninterrupted one; returns the number of stops."""
    reference, run = (
        Run(place / name, start, *words, data=place / "data", world=world) for name in ("uninterrupted", "stopped")
    )
    assert reference.process().wait() == 0, reference.output()
    hits = stop_and_resume(run, stops, random.Random(seed))
    print(f"{seed}: {dict(hits)}")
    assert sum(hits.values()) == len(stops)
    assert_same(run, reference)
    return len(stops)


@pytest.mark.parametrize(("model", "stops"), [("s4", ["saving", "training", "ending"]), ("transformer", ["saving"])])
def test_killed_run_resumes_bit_for_bit(model, stops, start, tmp_path):
    check_resume(start, tmp_path, stops, f"model={model}", seed=model)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", ["s4", "transformer"])
def test_run_killed_20_times_resumes_bit_for_bit(model, start, tmp_path, record_property):
    stops = ["startup", *["saving", "training"] * 8, "startup", "sigterm", "ending"]
    words = [f"model={model}", "training.steps=400"]
    record_property("processes stopped", check_resume(start, tmp_path, stops, *words, seed=model))


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", ["s4", "transformer"])
def test_ddp_run_killed_20_times_resumes_bit_for_bit(model, start, tmp_path, record_property):
    stops = ["startup", *["saving", "training", "one"] * 5, "training", "startup", "sigterm", "ending"]
    words = [f"model={model}", "training.steps=400", "trainer=ddp", "trainer.devices=2"]
    record_property("processes stopped", check_resume(start, tmp_path, stops, *words, seed=model, world=2))


def test_only_a_dead_process_loses_its_lock(start, tmp_path):
    run = Run(tmp_path / "run", start, "model=transformer", "training.steps=2000", data=tmp_path / "data")
    first = run.process()
    assert first.until(run.saved_since(0)), run.output()
    second = run.process()
    assert second.wait() == 2
    assert f"process {first.pid} is training this" in " ".join(run.output().split())
    first.kill()
    assert first.wait() == -signal.SIGKILL
    before = run.checkpoint()
    third = run.process()
    assert third.until(run.saved_since(before)), run.output()
    third.kill()
    third.wait()


@pytest.mark.nightly
def test_concurrent_starts_train_a_cell_once(start, tmp_path):
    run = Run(tmp_path / "run", start, "model=transformer", data=tmp_path / "data")
    both = [run.process(), run.process()]
    assert sorted(process.wait() for process in both) == [0, 2], run.output()
    record = run.record()
    assert record is not None
    assert record.status == "ok"
    assert run.output().count("is training this") == 1
