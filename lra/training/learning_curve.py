"""The learning curve and the training speed of a run."""

import math
import time

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lra.distributed import all_reduce_sum
from lra.objectives.objective import Objective
from lra.training.learner import Learner, mean_loss_and_totals

ENOUGH = 10  # steps between two validations that are closer than every_steps, to measure the speed


class LearningCurve(Callback):
    """One row per validation, and the speed between validations.

    Reading the training metrics waits for the device, so it happens only every `every_steps` steps.
    Rows: step, train_loss, train_score, val_loss, val_score, lr, seconds (of training, without evaluation).
    """

    def __init__(self, every_steps: int = 50):
        self.every_steps = every_steps
        self.rows: list[dict] = []
        self.speeds: list[float] = []  # steps per second, since the reading before
        self.seconds = 0.0
        self.last = {"train_loss": math.nan, "train_score": math.nan}
        self._sum: list[float] = []  # of the loss, and the totals, since the last validation
        self._since: tuple[float, int] | None = None

    def state_dict(self) -> dict:
        pending = 0.0 if self._since is None else time.perf_counter() - self._since[0]
        return {"rows": self.rows, "speeds": self.speeds, "seconds": self.seconds + pending, "sum": self._sum}

    def load_state_dict(self, state: dict) -> None:
        self.rows, self.speeds, self.seconds = state["rows"], state["speeds"], state["seconds"]
        self._sum = list(state["sum"])

    def _read(self, trainer: pl.Trainer, learner: Learner) -> None:
        sums = learner.train_metrics.compute_and_reset(all_reduce_sum)
        now = time.perf_counter()
        if self._since is not None:
            seconds, steps = now - self._since[0], trainer.global_step - self._since[1]
            self.seconds += seconds
            if steps >= min(self.every_steps, ENOUGH):
                self.speeds.append(steps / seconds)
        self._since = now, trainer.global_step
        if sums[-1]:
            self.last = training_metrics(sums, learner.objective)
            self._sum = [a + b for a, b in zip(self._sum or [0.0] * len(sums), sums, strict=True)]

    def on_train_start(self, trainer, pl_module) -> None:
        self._since = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self._since is None:
            self._since = time.perf_counter(), trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step % self.every_steps == 0:
            self._read(trainer, pl_module)
            metrics = {
                "train/loss": self.last["train_loss"],
                f"train/{pl_module.objective.metric.name}": self.last["train_score"],
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
            }
            if self.speeds:
                metrics["steps_per_second"] = self.speeds[-1]
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)

    def on_validation_start(self, trainer, pl_module) -> None:
        if not trainer.sanity_checking:
            self._read(trainer, pl_module)

    def on_validation_end(self, trainer, pl_module) -> None:
        row = {
            "step": trainer.global_step,
            **training_metrics(self._sum, pl_module.objective),
            "val_loss": pl_module.results["val"]["loss"],
            "val_score": pl_module.results["val"]["score"],
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": round(self.seconds, 3),
        }
        self.rows.append(row)
        self._sum = []
        self._since = None


def training_metrics(sums: list[float], objective: Objective) -> dict[str, float]:
    """Loss and score of training examples; not a number if there were none."""
    if not sums:
        return {"train_loss": math.nan, "train_score": math.nan}
    loss, totals = mean_loss_and_totals(sums, objective)
    return {"train_loss": loss, "train_score": objective.score(totals)}
