"""Progress bar of a run; without a terminal, a log line now and then."""

import math
import time

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lra.console import duration, log_interval
from lra.objectives.objective import objective_of
from lra.training.learning_curve import LearningCurve


class ProgressBar(Callback):
    """Shows loss, scores, steps per second and time left.

    Without a terminal it prints a line at each validation and every `every_seconds` instead. The interval grows with
    the run, to a hundredth of the time spent so far, at most a minute.
    """

    def __init__(self, curve: LearningCurve, title: str, console: Console | None = None, every_seconds: float = 5.0):
        self.curve, self.title, self.every_seconds = curve, title, every_seconds
        self.console = console or Console(stderr=True)
        self.progress: Progress | None = None
        self.metric = objective_of("classification").metric
        self._start = self._last_line = time.monotonic()

    def on_train_start(self, trainer, pl_module) -> None:
        if not trainer.is_global_zero:
            return
        self.metric = pl_module.objective.metric
        if done := trainer.global_step:
            self._print(f"{self.title}: goes on from step {done}/{trainer.max_steps}")
        if not self.console.is_terminal:
            return
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            refresh_per_second=4,
            expand=True,
        )
        self.task = self.progress.add_task(
            self.title, total=trainer.max_steps, completed=trainer.global_step, metrics="first step ..."
        )
        self.progress.start()

    def metrics(self) -> str:
        last, rows, speeds = self.curve.last, self.curve.rows, self.curve.speeds
        parts = []
        if math.isfinite(last["train_loss"]):
            parts.append(f"loss {last['train_loss']:.3f} {self.metric.name} {self.score(last['train_score'])}")
        if rows:
            parts.append(f"val {self.score(rows[-1]['val_score'])}")
        if speeds:
            parts.append(f"{speeds[-1]:.1f} steps/s")
        return " ".join(parts)

    def score(self, value: float) -> str:
        return f"{self.metric.text(value, 1)}%" if self.metric.percent else self.metric.text(value)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self.progress:
            self.progress.update(self.task, completed=trainer.global_step, metrics=self.metrics() or "...")
        elif time.monotonic() - self._last_line > log_interval(self._last_line - self._start, self.every_seconds, 60.0):
            self._print_progress(trainer)

    def on_validation_end(self, trainer, pl_module) -> None:
        if not trainer.sanity_checking:
            self._print_progress(trainer)

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)

    def _print_progress(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero and not self.console.is_terminal:
            done, total = trainer.global_step, trainer.max_steps
            left = f" {duration((total - done) / speeds[-1])} left" if (speeds := self.curve.speeds) else ""
            self._print(f"{self.title}: step {done}/{total} {self.metrics()}{left}")
        self._last_line = time.monotonic()

    def on_train_end(self, trainer, pl_module) -> None:
        if self.progress:
            self.progress.stop()
            self.progress = None

    def on_exception(self, trainer, pl_module, exception) -> None:
        self.on_train_end(trainer, pl_module)
