"""The training procedure: the objective's loss, AdamW with declared parameter groups, a schedule, exact metrics."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lra.distributed import all_reduce_sum, rank
from lra.errors import UserError
from lra.objectives.objective import Objective, objective_of
from lra.task import Batch
from lra.training import optim
from lra.training.cuda_graphs import LEAVE_OUT, GraphReplay, StepOutput
from lra.training.microbatch import MicroBatches


class RunningMetrics(nn.Module):
    """Sums of the loss and of the objective's totals, kept on the device so that no step waits for them."""

    sums: Tensor

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective
        self.register_buffer("sums", torch.zeros(1 + len(objective.totals), dtype=torch.float64))

    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        self.sums[0] += loss.detach().double() * len(targets)
        self.sums[1:] += self.objective.add_up(outputs.detach(), targets)

    def reset(self) -> None:
        self.sums.zero_()

    def compute_and_reset(self, reduce=lambda sums: sums) -> list[float]:
        """Sum of the loss over examples, and the totals, since the last reset."""
        sums: list[float] = reduce(self.sums.clone()).tolist()
        self.reset()
        return sums


def mean_loss_and_totals(sums: list[float], objective: Objective) -> tuple[float, dict[str, float]]:
    """Mean loss of the examples, and the totals by name, whole numbers as int."""
    totals = {n: int(v) if v.is_integer() else v for n, v in zip(objective.totals, sums[1:], strict=True)}
    return sums[0] / max(totals["examples"], 1), totals


class Learner(pl.LightningModule):
    """Trains and evaluates a model of (x, mask).

    objective    loss and metrics
    optimizer    arguments of `lra.training.optim.adamw`
    schedule     name of a schedule in `lra.training.optim`; `patience` and `factor` belong to "plateau"
    warmup       share of all steps if below 1, otherwise a number of steps
    total_steps  optimiser steps of the whole run; the schedule ends there
    clip         largest norm of the gradient; None for no clipping
    split        split batches after an out-of-memory error (see `lra.training.microbatch`)
    graph        positions of the longest batch, to replay CUDA graphs (see `lra.training.cuda_graphs`); None for none
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: dict,
        objective: Objective | None = None,
        schedule: str = "cosine",
        warmup: float = 0.1,
        patience: int | None = None,
        factor: float | None = None,
        total_steps: int = 1,
        clip: float | None = None,
        split: bool = True,
        graph: int | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False  # training_step does it all
        self.model, self.objective = model, objective or objective_of("classification")
        self.optimizer_arguments = optimizer
        higher = self.objective.metric.higher_is_better
        self.schedule = optim.schedule(
            schedule, total_steps, warmup, patience=patience, factor=factor, higher_is_better=higher
        )
        self.clip = clip
        self.graphs = None if graph is None else GraphReplay(self.compute_loss, model, graph)
        forbidden = None if split else "trainer.split=false"
        self.training_parts = MicroBatches("training", forbidden=forbidden if graph is None else "trainer.graph=true")
        self.evaluation_parts = MicroBatches("evaluation", forbidden=forbidden)
        self.train_metrics = RunningMetrics(self.objective)  # since the learning curve last read them
        self.eval_metrics = RunningMetrics(self.objective)
        self.results: dict[str, dict] = {}  # split -> loss, totals and score of its last evaluation
        self.loss = torch.zeros(())  # of the last training step

    def forward(self, batch: Batch) -> Tensor:
        return self.model(batch.x, batch.mask)

    def compute_loss(self, batch: Batch) -> StepOutput:
        outputs = self(batch).float()
        return StepOutput(self.objective.loss(outputs, batch.y), outputs, batch.y)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of the optimiser and of the schedule, along the gradient of the mean loss over the batch."""
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        outputs = self.training_parts.map(
            self.add_gradients, batch, step=self.trainer.global_step + 1, reset=optimizer.zero_grad
        )
        self.loss = torch.stack([output.loss for output in outputs]).mean()
        for output in outputs:
            self.train_metrics.add(*output)
        optimizer.step()
        scheduler.step()

    def add_gradients(self, part: Batch, share: float) -> StepOutput:
        """Add the gradient of the part's mean loss, weighted by its share of the batch."""
        if self.graphs is not None:
            return self.graphs.gradients(part)  # such a batch is never split
        output = self.compute_loss(part)
        # Lightning runs the whole step under autocast; backward passes belong outside of it
        with torch.autocast(self.device.type, enabled=False):
            self.manual_backward(output.loss * share)
        return StepOutput(*(t.detach() for t in output))

    def on_before_optimizer_step(self, optimizer) -> None:
        # called after the callbacks, which see the gradient before clipping
        if self.clip:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], self.clip)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Returns the outputs, for examples; none of next tokens, which take more memory than the model."""
        parts = self._evaluate(batch)
        return None if self.objective.per_token else torch.cat([part.outputs for part in parts])

    def _evaluate(self, batch: Batch) -> list[StepOutput]:
        """Add a batch to the metrics."""
        parts = self.evaluation_parts.map(
            lambda part, share: self.compute_loss(part), batch, step=self.trainer.global_step + 1
        )
        for part in parts:
            self.eval_metrics.add(*part)
        return parts

    def on_validation_epoch_start(self) -> None:
        self.eval_metrics.reset()

    def on_validation_epoch_end(self) -> None:
        self._log_results("val")
        if isinstance(self.schedule, optim.Plateau):
            self.schedule.validated(self.results["val"]["score"])
            for each in self.trainer.lr_scheduler_configs:  # the next step's rate is already set
                scheduler: Any = each.scheduler
                for group, rate in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=True):
                    group["lr"] = rate * self.schedule(scheduler.last_epoch)

    def on_test_epoch_start(self) -> None:
        if "test" in self.results:
            raise RuntimeError("this run has read its test set already; a second look would be a choice by test")
        self.eval_metrics.reset()

    def on_test_epoch_end(self) -> None:
        self._log_results("test")

    def _log_results(self, split: str) -> None:
        loss, totals = mean_loss_and_totals(self.eval_metrics.compute_and_reset(all_reduce_sum), self.objective)
        self.results[split] = {"loss": loss, "totals": totals, "score": self.objective.score(totals)}
        # Lightning's own count is one behind during a validation
        self.log("step", float(self.trainer.global_step))
        self.log(f"{split}/loss", loss)
        for name, value in self.objective.scores(totals).items():
            self.log(f"{split}/{name}", value)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["state_dict"]["train_metrics.sums"] = all_reduce_sum(self.train_metrics.sums)
        checkpoint["parts"] = [p.state_dict() for p in (self.training_parts, self.evaluation_parts)]

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        for parts, state in zip((self.training_parts, self.evaluation_parts), checkpoint["parts"], strict=True):
            parts.load_state_dict(state)
        if self.graphs is not None and self.training_parts.n > 1:
            raise UserError(f"trainer.graph=true: {self.training_parts.note()}, which needs no graph", hint=LEAVE_OUT)
        if rank() > 0:  # rank 0 continues with the sums of all processes
            checkpoint["state_dict"]["train_metrics.sums"].zero_()

    def configure_optimizers(self):
        optimizer = optim.adamw(self.model, **self.optimizer_arguments)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)]
