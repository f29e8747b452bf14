"""Progress bar of a run, or a line now and then where there is no terminal."""

import math
import time

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lra.console import duration, pause
from lra.training.learning_curve import Curve


class ProgressBar(Callback):
    """A bar over the whole run: loss, accuracies, steps per second, time left.

    Without a terminal it prints a line at each validation and every `every_seconds` instead; the longer the run, the
    fewer: one in a hundredth of the time spent so far, and at least one a minute.
    """

    def __init__(self, curve: Curve, title: str, console: Console | None = None, every_seconds: float = 5.0):
        self.curve, self.title, self.every_seconds = curve, title, every_seconds
        self.console = console or Console(stderr=True)
        self.progress: Progress | None = None
        self._since = self._said = time.monotonic()

    def on_train_start(self, trainer, pl_module) -> None:
        if not trainer.is_global_zero:
            return
        if done := trainer.global_step:
            words = f"{self.title}: goes on from step {done}/{trainer.max_steps}"
            self.console.print(words, highlight=False, soft_wrap=True)
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
            parts.append(f"loss {last['train_loss']:.3f} acc {100 * last['train_accuracy']:.1f}%")
        if rows:
            parts.append(f"val {100 * rows[-1]['val_accuracy']:.1f}%")
        if speeds:
            parts.append(f"{speeds[-1]:.1f} steps/s")
        return " ".join(parts)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self.progress:
            self.progress.update(self.task, completed=trainer.global_step, metrics=self.metrics() or "...")
        elif time.monotonic() - self._said > pause(self._said - self._since, self.every_seconds, 60.0):
            self._say(trainer)

    def on_validation_end(self, trainer, pl_module) -> None:
        if not trainer.sanity_checking:
            self._say(trainer)

    def _say(self, trainer: pl.Trainer) -> None:
        """A line of its own, where there is no bar."""
        if trainer.is_global_zero and not self.console.is_terminal:
            done, total = trainer.global_step, trainer.max_steps
            left = f" {duration((total - done) / speeds[-1])} left" if (speeds := self.curve.speeds) else ""
            words = f"{self.title}: step {done}/{total} {self.metrics()}{left}"
            self.console.print(words, highlight=False, soft_wrap=True)
        self._said = time.monotonic()

    def _stop(self) -> None:
        if self.progress:
            self.progress.stop()
            self.progress = None

    def on_train_end(self, trainer, pl_module) -> None:
        self._stop()

    def on_exception(self, trainer, pl_module, exception) -> None:
        self._stop()
