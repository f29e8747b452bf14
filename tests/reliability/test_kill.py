"""A training process killed at any moment and started again ends as if nothing had happened: bit for bit."""

import os
import random
import signal
import time
from collections import Counter

import pytest

from helpers.processes import Process
from helpers.whole_runs import Run, assert_same


def strike(run: Run, process: Process, how: str, chance: random.Random) -> str:
    """Stop a process in one of several ways; returns what was hit: a word, or "" if it had ended before.

    early   killed at a random moment of its first two seconds, whatever it does then
    saving  killed while a checkpoint is being written
    moment  killed at a random moment of training
    asked   told to stop (SIGTERM) at such a moment
    one     of several processes one is killed at such a moment, as with a machine that dies; the others have to end
    ending  killed between the weights, which are written after the test, and the record
    """
    if how == "early":
        time.sleep(chance.uniform(0, 2))
        process.kill()
        return how
    if how == "ending":
        weights = run.place / "runs"
        there = process.until(lambda: any(weights.rglob("model.safetensors")))
        process.kill()
        return how if there else ""
    if not process.until(run.saved_since(run.checkpoint())):
        return ""
    time.sleep(chance.uniform(0, 0.25))
    if how == "saving":
        if not process.until(run.saving):
            return ""
        process.kill()
        return "saving" if run.saving() else "moment"
    if how == "one":
        os.kill(chance.choice(process.pids), signal.SIGKILL)
        return how
    process.kill(signal.SIGTERM if how == "asked" else signal.SIGKILL)
    return how


def survive(run: Run, strikes: list[str], chance: random.Random) -> Counter:
    """Start the run and strike it, again and again, then let it end; counts what was hit."""
    hit: Counter = Counter()
    for how in strikes:
        process = run.process()
        what = strike(run, process, how, chance)
        statuses = process.wait_for_all()
        if set(statuses) == {0}:
            break
        hit[what] += what != ""
        if what == "one":
            assert sorted(statuses) == [-signal.SIGKILL, 1], run.said()
        elif what == "ending":
            # weights and record are written by the first process; by then the others may be through
            assert statuses[0] == -signal.SIGKILL, run.said()
            assert set(statuses) <= {-signal.SIGKILL, 0}, run.said()
        else:
            assert set(statuses) in ({-signal.SIGKILL}, {130}, {130, 0}), run.said()
        assert "Traceback" not in run.said()
    status = run.process().wait()
    assert status == 0, run.said()
    return +hit


@pytest.mark.parametrize(
    ("model", "strikes"),
    [("s4", ["saving", "moment", "ending"]), ("transformer", ["saving"])],
    ids=["s4", "transformer"],
)
def test_a_killed_run_ends_as_an_undisturbed_one_bit_for_bit(model, strikes, start, tmp_path):
    runs = [Run(tmp_path / name, start, f"model={model}", data=tmp_path / "data") for name in ("whole", "killed")]
    assert runs[0].process().wait() == 0, runs[0].said()
    hit = survive(runs[1], strikes, random.Random(model))
    assert sum(hit.values()) == len(strikes)
    assert_same(runs[1], runs[0])


def survive_twenty(model: str, strikes: list[str], start, place, *words: str, world: int = 1) -> int:
    """How often a run was struck; it has ended as one that nobody disturbed."""
    words = (f"model={model}", "training.steps=400", *words)
    runs = [Run(place / name, start, *words, data=place / "data", world=world) for name in ("whole", "killed")]
    assert runs[0].process().wait() == 0, runs[0].said()
    hit = survive(runs[1], strikes, random.Random(model))
    print(f"{model}: {dict(hit)}")
    assert sum(hit.values()) == len(strikes) == 20
    assert_same(runs[1], runs[0])
    return sum(hit.values())


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", ["s4", "transformer"])
def test_a_run_killed_at_twenty_moments_ends_as_an_undisturbed_one(model, start, tmp_path, record_property):
    strikes = ["early", *["saving", "moment"] * 8, "early", "asked", "ending"]
    record_property("processes stopped", survive_twenty(model, strikes, start, tmp_path))


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", ["s4", "transformer"])
def test_two_processes_killed_at_twenty_moments_end_as_undisturbed_ones(model, start, tmp_path, record_property):
    strikes = ["early", *["saving", "moment", "one"] * 5, "moment", "early", "asked", "ending"]
    pair = ["trainer=ddp", "trainer.devices=2"]
    record_property("processes stopped", survive_twenty(model, strikes, start, tmp_path, *pair, world=2))


def test_a_dead_owners_claim_is_taken_over_and_a_living_ones_is_not(start, tmp_path):
    run = Run(tmp_path / "run", start, "model=transformer", "training.steps=2000", data=tmp_path / "data")
    first = run.process()
    assert first.until(run.saved_since(0)), run.said()
    second = run.process()
    assert second.wait() == 2
    assert f"process {first.pid} is training this cell; wait for it or stop it" in " ".join(run.said().split())
    first.kill()
    assert first.wait() == -signal.SIGKILL
    before = run.checkpoint()
    third = run.process()
    assert third.until(run.saved_since(before)), run.said()
    third.kill()
    third.wait()


@pytest.mark.nightly
def test_two_that_start_at_once_train_a_cell_once(start, tmp_path):
    run = Run(tmp_path / "run", start, "model=transformer", data=tmp_path / "data")
    both = [run.process(), run.process()]
    assert sorted(process.wait() for process in both) == [0, 2], run.said()
    assert run.record().status == "ok"
    assert run.said().count("is training this cell") == 1
