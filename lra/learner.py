"""The one training procedure: cross-entropy, AdamW over declared groups, a schedule, exact accuracy."""

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.optim import adamw, schedule
from lra.task import Batch
from lra.together import rank, total


class Tally(nn.Module):
    """Running sums of loss, correct answers and examples, kept on the device so that a step waits for nothing."""

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(3, dtype=torch.float64))

    def add(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        correct = (logits.argmax(-1) == y).sum()
        self.sums += torch.stack([loss.detach().double() * len(y), correct, torch.full_like(correct, len(y))])

    def take(self, reduce=lambda sums: sums) -> tuple[float, int, int]:
        """Mean loss, correct answers and examples since the last call; starts anew."""
        loss, correct, count = reduce(self.sums.clone()).tolist()
        self.sums.zero_()
        return loss / max(count, 1.0), int(correct), int(count)


class Learner(pl.LightningModule):
    """Trains and evaluates a classifier of (x, mask).

    optimizer    arguments of `lra.optim.adamw`
    schedule     name of a schedule in `lra.optim`
    warmup       share of all steps if below 1, otherwise a number of steps
    total_steps  optimiser steps of the whole run; the schedule ends there
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: dict,
        schedule: str = "cosine",
        warmup: float = 0.1,
        total_steps: int = 1,
    ):
        super().__init__()
        self.model = model
        self.optimizer_arguments, self.schedule, self.warmup = optimizer, schedule, warmup
        self.total_steps = total_steps
        self.window = Tally()  # of the training steps since somebody last looked
        self.evaluation = Tally()
        self.results: dict[str, dict] = {}  # split -> loss, accuracy, correct, examples of its last evaluation

    def forward(self, batch: Batch) -> Tensor:
        return self.model(batch.x, batch.mask)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self(batch).float()
        loss = F.cross_entropy(logits, batch.y)
        self.window.add(loss, logits, batch.y)
        return loss

    def _evaluate(self, batch: Batch) -> Tensor:
        logits = self(batch).float()
        self.evaluation.add(F.cross_entropy(logits, batch.y), logits, batch.y)
        return logits

    def _report(self, split: str) -> None:
        loss, correct, count = self.evaluation.take(total)
        self.results[split] = {"loss": loss, "accuracy": correct / max(count, 1), "correct": correct, "examples": count}
        self.log(f"{split}/loss", loss)
        self.log(f"{split}/accuracy", correct / max(count, 1))

    def on_validation_epoch_start(self) -> None:
        self.evaluation.sums.zero_()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_start(self) -> None:
        self.evaluation.sums.zero_()

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["state_dict"]["window.sums"] = total(self.window.sums)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        if rank() > 0:  # the first of several processes carries on the sums of all
            checkpoint["state_dict"]["window.sums"].zero_()

    def configure_optimizers(self):
        optimizer = adamw(self.model, **self.optimizer_arguments)
        factor = schedule(self.schedule, self.total_steps, self.warmup)
        steps = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": steps, "interval": "step"}}
