"""What a run is given before anything has happened: which one it is, how long it trains, where it runs."""

import math
from dataclasses import dataclass

from lra.training.optim import SCHEDULES

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
PRECISIONS = ("32-true", "bf16-mixed", "64-true", "16-mixed", "bf16-true", "16-true")


@dataclass(frozen=True)
class Training:
    """How long and how the optimiser runs.

    epochs, steps   length of the run, exactly one of the two
    schedule, warmup  see `lra.training.optim.schedule`
    clip            norm to which the gradient is cut; None for no clipping
    validations     evaluations on the validation split over the run; None: one each epoch, or 20 in a run of `steps`
    """

    epochs: float | None = None
    steps: int | None = None
    schedule: str = "cosine"
    warmup: float = 0.1
    clip: float | None = None
    validations: int | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            given = f"epochs={self.epochs}, steps={self.steps}"
            raise ValueError(f"training: {given}; give one of the two (training.epochs=null training.steps=1000)")
        for name in ("epochs", "steps", "clip", "validations"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"training.{name}={value}: more than 0 is needed")
        if self.warmup < 0:
            raise ValueError(f"training.warmup={self.warmup}: a share or a number of steps is not negative")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"training.schedule={self.schedule}: not one of {', '.join(SCHEDULES)}")

    def total_steps(self, steps_per_epoch: int) -> int:
        return int(self.steps) if self.steps is not None else max(1, round(self.epochs * steps_per_epoch))  # type: ignore[operator]

    def validate_every(self, steps_per_epoch: int) -> int:
        total = self.total_steps(steps_per_epoch)
        validations = self.validations or (20 if self.epochs is None else max(1, math.floor(self.epochs)))
        return max(1, total // validations)


@dataclass(frozen=True)
class Hardware:
    """Where it runs.

    devices, nodes  devices of each node, and nodes: a process for each device, and every batch shared out between them
    compile         torch.compile every block
    graph           record forward and backward passes as CUDA graphs (see `lra.training.cuda_graphs`)
    threads         None leaves torch's choice
    split           compute a batch in parts if memory runs out (see `lra.training.microbatch`), or else end as oom
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    precision: str = "32-true"
    compile: bool = False
    graph: bool = False
    threads: int | None = None
    deterministic: bool = False
    checkpoint_seconds: float = 300.0
    split: bool = True

    def __post_init__(self) -> None:
        for name in ("devices", "nodes", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"trainer.{name}={value}: at least 1 is needed")
        for name, known in (("accelerator", ACCELERATORS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"trainer.{name}={getattr(self, name)}: not one of {', '.join(known)}")
        if self.checkpoint_seconds < 0:
            raise ValueError(f"trainer.checkpoint_seconds={self.checkpoint_seconds}: time is not negative")

    def notes(self) -> list[str]:
        """What the record says of how steps were computed, beside its own fields."""
        ways = {
            f"{self.processes} processes, each with an equal share of every batch": self.processes > 1,
            "blocks compiled by torch.compile": self.compile,
            "steps of training recorded as CUDA graphs": self.graph,
        }
        return [way for way, taken in ways.items() if taken]

    @property
    def processes(self) -> int:
        return self.devices * self.nodes
