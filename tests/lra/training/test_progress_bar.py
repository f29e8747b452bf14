"""Progress of a run: a bar on a terminal, otherwise a few lines; a resumed run names its step."""

import io
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest
from rich.console import Console

from lra.console import duration, log_interval
from lra.objectives.objective import objective_of
from lra.training import progress_bar
from lra.training.learning_curve import LearningCurve
from lra.training.progress_bar import ProgressBar


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3 * 3600, "3.0 h"), (75 * 3600, "3.1 days")]
)
def test_durations_have_a_fitting_unit(seconds, text):
    assert duration(seconds) == text


def test_log_lines_become_rarer():
    at, lines = 0.0, []
    while at < 24 * 3600:
        at += log_interval(at, 5.0, 60.0)
        lines.append(at)
    assert lines[:3] == [5.0, 10.0, 15.0]
    assert len(lines) < 2000
    assert max(b - a for a, b in pairwise(lines)) == pytest.approx(60)


LEARNER = SimpleNamespace(objective=objective_of("classification"))


@pytest.fixture
def bar(monkeypatch):
    """(bar, its trainer, its output, a function that advances the clock)."""
    now = [time.monotonic()]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    screen = io.StringIO()
    bar = ProgressBar(LearningCurve(), "S4 on listops (seed 0)", Console(file=screen, width=200))
    trainer = SimpleNamespace(is_global_zero=True, global_step=0, max_steps=1500, sanity_checking=False)

    def wait(seconds: float) -> None:
        now[0] += seconds

    return bar, trainer, screen, wait


def test_log_line_has_steps_scores_and_time_left(bar):
    bar, trainer, screen, wait = bar
    bar.on_train_start(trainer, LEARNER)
    bar.on_train_batch_end(trainer, None, None, None, 0)
    assert screen.getvalue() == ""
    wait(6)
    trainer.global_step = 100
    bar.curve.last, bar.curve.speeds = {"train_loss": 1.25, "train_score": 0.5}, [10.0]
    bar.on_train_batch_end(trainer, None, None, None, 0)
    bar.on_train_batch_end(trainer, None, None, None, 0)
    assert (
        screen.getvalue() == "S4 on listops (seed 0): step 100/1500 loss 1.250 accuracy 50.0% 10.0 steps/s 2 min left\n"
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_resumed_run_names_its_step(bar, terminal):
    bar, trainer, screen, _ = bar
    bar.console = Console(file=screen, width=200, force_terminal=terminal)
    trainer.global_step = 400
    bar.on_train_start(trainer, LEARNER)
    bar.on_exception(trainer, None, None)
    assert "S4 on listops (seed 0): goes on from step 400/1500\n" in screen.getvalue()
