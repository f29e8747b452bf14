"""The record of a run while the run is made."""

import dataclasses
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

from lra.ops.ssm_kernels import dispatch
from lra.profiling.parameters import parameters
from lra.profiling.timing import peak_memory_mib
from lra.records import environment
from lra.records.record import Data, Point, Record, Selection, Status
from lra.records.run_spec import RunSpec
from lra.training import kernel_snapshots
from lra.training.config import Hardware
from lra.training.example_predictions import Samples
from lra.training.learning_curve import Curve


class Draft:
    """One run while it is made: what is known is filled in on the way, and `record` writes it down.

    data   as in `lra.training.run.run`
    wandb  the run's address there
    """

    def __init__(self, cell: RunSpec, data: Any, model: nn.Module, hardware: Hardware, wandb: str | None = None):
        self.cell, self.data, self.model = cell, data, model
        self.hardware, self.wandb = hardware, wandb
        self.flops: int | None = None
        self.samples = Samples(data)
        self.started, self.clock = environment.now(), time.perf_counter()
        self.git = environment.git()  # of the code as it started
        self.curve, self.best = Curve(), {"accuracy": -1.0, "step": 0}
        self.notes: list[str] = []
        self.steps_done = 0
        self.total_steps = 0
        self.device = torch.device("cpu")

    def record(self, status: Status, **known: Any) -> Record:
        """The record as far as it is known. known: further fields of it."""
        cell, rows, speeds = self.cell, self.curve.rows, self.curve.speeds
        chosen = int(self.best["step"]) or None
        rule = "best val/accuracy, earliest of equals"
        steps_per_epoch = max(1, self.steps_per_epoch)
        about = {f.name: getattr(cell, f.name) for f in dataclasses.fields(cell)}
        about["notes"] = [*cell.notes, *self.data.notes, *self.notes, *self.hardware.notes()]
        return Record(
            **about,
            status=status,
            git=self.git,
            versions=environment.versions(),
            hardware=environment.hardware(self.device),
            precision=self.hardware.precision,
            kernel_backend=kernel_backend(),
            data=Data(
                kind=self.data.kind,
                fingerprint=self.data.fingerprint,
                counts=dict(self.data.counts),
                chance=self.data.majority("test"),
            ),
            parameters=parameters(self.model),
            flops=self.flops,
            selection=Selection(rule=rule, on_test=getattr(self.data, "selection_on_test", False), step=chosen),
            val_accuracy=self.best["accuracy"] if chosen else None,
            steps_done=self.steps_done,
            steps_total=self.total_steps,
            epochs=round(self.steps_done / steps_per_epoch, 3),
            train_seconds=round(self.curve.seconds, 3),
            total_seconds=round(time.perf_counter() - self.clock, 3),
            steps_per_second=round(statistics.median(speeds), 3) if speeds else None,
            peak_memory_mib=round(peak_memory_mib(self.device), 1),
            curve=[Point(**row) for row in rows],
            wandb=self.wandb,
            started=self.started,
            finished=environment.now(),
            **known,
        )

    @property
    def steps_per_epoch(self) -> int:
        return len(self.data.train_dataloader())

    def kernels(self) -> dict[int, Tensor]:
        """The model's convolution kernels as they are now."""
        return kernel_snapshots.forward_kernels(
            self.model.to(self.device), min(self.data.spec.max_len, kernel_snapshots.LONGEST)
        )


def kernel_backend() -> str | None:
    """Names of the kernel backends that have computed something in this run, None if none has."""
    names = {name for used in dispatch.backends_used().values() for name in used}
    return ", ".join(sorted(names)) or None
