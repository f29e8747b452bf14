"""The one training procedure: cross-entropy, AdamW over declared groups, a schedule, exact accuracy."""

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.distributed import rank, total
from lra.task import Batch
from lra.training.cuda_graphs import Graphs, Recording
from lra.training.microbatch import Parts, release
from lra.training.optim import adamw, schedule


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

    optimizer    arguments of `lra.training.optim.adamw`
    schedule     name of a schedule in `lra.training.optim`
    warmup       share of all steps if below 1, otherwise a number of steps
    total_steps  optimiser steps of the whole run; the schedule ends there
    split        where memory runs out, compute batches in parts (see `lra.training.microbatch`)
    graph        positions of the longest batch, to replay recorded passes (see `lra.training.cuda_graphs`); None: no
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: dict,
        schedule: str = "cosine",
        warmup: float = 0.1,
        total_steps: int = 1,
        split: bool = True,
        graph: int | None = None,
    ):
        super().__init__()
        self.model = model
        self.graphs = None if graph is None else Graphs(self._loss, model, graph)
        self.optimizer_arguments, self.schedule, self.warmup = optimizer, schedule, warmup
        self.total_steps = total_steps
        self.window = Tally()  # of the training steps since somebody last looked
        self.evaluation = Tally()
        self.results: dict[str, dict] = {}  # split -> loss, accuracy, correct, examples of its last evaluation
        whole = None if split else "trainer.split=false"
        self.training_parts = Parts("training", whole=whole if graph is None else "trainer.graph=true")
        self.evaluation_parts = Parts("evaluation", whole=whole)
        self.loss = torch.zeros(())  # of the last training step
        self._batch: Batch | None = None  # of the step at hand, until its gradient is there
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []  # loss, scores and labels of its parts
        self._repeated: Recording | None = None  # whose gradient it has already

    def forward(self, batch: Batch) -> Tensor:
        return self.model(batch.x, batch.mask)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self._batch, self._seen, self._repeated = batch, [], None
        if self.graphs is not None:
            batch = self._batch = self.graphs.padded(batch)
            self._repeated = self.graphs.repeat(batch)
        if self._repeated is not None:
            self._seen.append((self._repeated.loss, self._repeated.scores, batch.y))
            return self._repeated.loss
        return self._part_loss(self.training_parts.of(batch)[0])

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean over the batch, and the scores (B, n_classes)."""
        logits = self(batch).float()
        return F.cross_entropy(logits, batch.y), logits

    def _part_loss(self, part: Batch) -> Tensor:
        """What a part of the batch contributes to its loss: all of it, if it is the only one."""
        assert self._batch is not None
        loss, logits = self._loss(part)
        self._seen.append((loss.detach(), logits.detach(), part.y))
        return loss if len(part.y) == len(self._batch.y) else loss * (len(part.y) / len(self._batch.y))

    def backward(self, loss: Tensor, *args, **kwargs) -> None:
        """The gradient of the whole batch: of `loss`, then of the parts training_step has left out."""
        assert self._batch is not None
        if self.graphs is not None and self._repeated is not None:
            self.graphs.give(self._repeated)
        else:
            super().backward(loss, *args, **kwargs)
        for part in self.training_parts.of(self._batch)[1:]:
            with self.trainer.precision_plugin.train_step_context():
                piece = self._part_loss(part)
            super().backward(piece, *args, **kwargs)
        self.loss = self._seen[0][0]
        if len(self._seen) > 1:
            self.loss = torch.stack([loss * len(y) for loss, _, y in self._seen]).sum() / len(self._batch.y)
        for seen in self._seen:
            self.window.add(*seen)
        self._batch, self._seen = None, []

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """By the norm of the whole gradient.

        Lightning refuses a fused optimizer under every autocast, for float16 scales the loss and the optimizer takes
        that back only after the clipping. bfloat16 scales nothing.
        """
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            held = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(held, gradient_clip_val)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer, optimizer_closure=None) -> None:
        while True:
            try:
                return super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            except torch.OutOfMemoryError as error:
                if self._batch is None:  # the gradient was there: more parts do not help
                    raise
                self._divide(self.training_parts, error, self._batch)
            # past the handler, so that nothing holds the failed attempt any more
            self._batch, self._seen = None, []
            release()

    def _divide(self, parts: Parts, error: torch.OutOfMemoryError, batch: Batch) -> None:
        parts.double(error, batch, step=self.trainer.global_step + 1, world=self.trainer.world_size)

    def _scores(self, batch: Batch) -> Tensor:
        """(B, n_classes), in as many parts as memory asks for."""
        while True:
            try:
                scores = [self(part).float() for part in self.evaluation_parts.of(batch)]
                return scores[0] if len(scores) == 1 else torch.cat(scores)
            except torch.OutOfMemoryError as error:
                self._divide(self.evaluation_parts, error, batch)
            release()

    def _evaluate(self, batch: Batch) -> Tensor:
        logits = self._scores(batch)
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
        if "test" in self.results:
            raise RuntimeError("this run has read its test set already; a second look would be a choice by test")
        self.evaluation.sums.zero_()

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["state_dict"]["window.sums"] = total(self.window.sums)
        checkpoint["parts"] = [p.state_dict() for p in (self.training_parts, self.evaluation_parts)]

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        for parts, state in zip((self.training_parts, self.evaluation_parts), checkpoint["parts"], strict=True):
            parts.load_state_dict(state)
        if self.graphs is not None and self.training_parts.n > 1:
            raise ValueError(f"trainer.graph=true: {self.training_parts.note()}, which is not recorded: leave it out")
        if rank() > 0:  # the first of several processes carries on the sums of all
            checkpoint["state_dict"]["window.sums"].zero_()

    def configure_optimizers(self):
        optimizer = adamw(self.model, **self.optimizer_arguments)
        factor = schedule(self.schedule, self.total_steps, self.warmup)
        steps = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": steps, "interval": "step"}}
