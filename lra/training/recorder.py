"""Collects what a run's record needs while the run is in progress."""

import dataclasses
import statistics
from typing import Any

import pytorch_lightning as pl
from torch import nn

from lra.objectives.objective import objective_of
from lra.ops.ssm_kernels import dispatch
from lra.profiling.parameters import count_parameters
from lra.profiling.timing import peak_memory_mib
from lra.records import environment
from lra.records.code import fingerprint_of
from lra.records.record import Data, Point, Record, Selection, Status
from lra.records.run_spec import RunSpec
from lra.training.checkpoint import Checkpoint
from lra.training.config import Hardware
from lra.training.learning_curve import LearningCurve


class Recorder:
    """Makes the record of a run from the live objects of its training, at any moment.

    data   as in `lra.training.run.run`
    wandb  the run's W&B address
    """

    def __init__(
        self,
        run_spec: RunSpec,
        data: Any,
        model: nn.Module,
        *,
        hardware: Hardware,
        trainer: pl.Trainer,
        curve: LearningCurve,
        checkpoint: Checkpoint,
        wandb: str | None = None,
    ):
        self.run_spec, self.data, self.model, self.hardware = run_spec, data, model, hardware
        self.trainer, self.curve, self.checkpoint, self.wandb = trainer, curve, checkpoint, wandb
        self.flops: int | None = None
        self.notes: list[str] = []
        self.started = environment.now()
        self.git = environment.git()  # of the code as it started
        self.code = fingerprint_of(checkpoint.identity.code) if checkpoint.identity else None

    def record(self, status: Status, **fields: Any) -> Record:
        """The record as far as it is known; `fields` are further fields of it."""
        best, speeds, device = self.checkpoint.best, self.curve.speeds, self.trainer.strategy.root_device
        best_step = int(best["step"]) or None
        backends = {name for names in dispatch.backends_used().values() for name in names}
        identity = {f.name: getattr(self.run_spec, f.name) for f in dataclasses.fields(self.run_spec)}
        identity["notes"] = [*self.run_spec.notes, *self.data.notes, *self.notes, *self.checkpoint.notes]
        identity["notes"] += self.hardware.notes()
        return Record(
            **identity,
            status=status,
            objective=self.data.spec.objective,
            git=self.git,
            code=self.code,
            versions=environment.versions(),
            hardware=environment.hardware(device),
            precision=self.hardware.precision,
            kernel_backend=", ".join(sorted(backends)) or None,
            data=Data(
                kind=self.data.kind,
                fingerprint=self.data.fingerprint,
                counts=dict(self.data.counts),
                trivial=self.data.trivial_score("test"),
            ),
            parameters=count_parameters(self.model),
            flops=self.flops,
            selection=Selection(
                rule=f"best val/{objective_of(self.data.spec.objective).metric.name}, earliest of equals",
                on_test=getattr(self.data, "selection_on_test", False),
                step=best_step,
            ),
            val_score=best["score"] if best_step else None,
            steps_done=self.trainer.global_step,
            steps_total=self.trainer.max_steps,
            epochs=round(self.trainer.global_step / max(1, len(self.data.train_dataloader())), 3),
            train_seconds=round(self.curve.seconds, 3),
            total_seconds=round(self.checkpoint.seconds, 3),
            steps_per_second=round(statistics.median(speeds), 3) if speeds else None,
            peak_memory_mib=round(peak_memory_mib(device), 1),
            curve=[Point(**row) for row in self.curve.rows],
            wandb=self.wandb,
            started=self.started,
            finished=environment.now(),
            **fields,
        )
