"""Settings of a run: how long it trains and where it runs."""

import math
from dataclasses import dataclass

from lra.errors import UserError
from lra.training.optim import SCHEDULES

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
PRECISIONS = ("32-true", "bf16-mixed")


@dataclass(frozen=True)
class Training:
    """Length of a training and behaviour of its optimiser.

    epochs, steps     length of the run, exactly one of the two
    minutes           instead of both: the duration of the run (`lra.launch.minutes` makes it a number of steps)
    schedule, warmup  see `lra.training.optim.schedule`, also for `patience` and `factor` of the schedule "plateau"
    clip              largest norm of the gradient; None for no clipping
    validations       evaluations on the validation split in the run; None: one per epoch, or 20 in a run of `steps`
    """

    epochs: float | None = None
    steps: int | None = None
    schedule: str = "cosine"
    warmup: float = 0.1
    clip: float | None = None
    validations: int | None = None
    minutes: float | None = None
    patience: int | None = None
    factor: float | None = None

    def __post_init__(self) -> None:
        if self.minutes is None and (self.epochs is None) == (self.steps is None):
            raise UserError(
                f"training.epochs={self.epochs}, training.steps={self.steps}: exactly one of the two is needed",
                hint="training.epochs=null training.steps=1000",
            )
        for name in ("epochs", "steps", "clip", "validations", "minutes"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise UserError(f"training.{name}={value}: not positive")
        if self.warmup < 0:
            raise UserError(f"training.warmup={self.warmup}: negative")
        if self.warmup > 1 and self.warmup != int(self.warmup):
            hint = "a share of all steps below 1, or a whole number of steps"
            raise UserError(f"training.warmup={self.warmup}: not a number of steps", hint=hint)
        if self.steps is not None:
            self.check_warmup(int(self.steps))
        if self.schedule not in SCHEDULES:
            raise UserError(f"training.schedule={self.schedule}: not one of {', '.join(SCHEDULES)}")
        if self.patience is not None and self.patience < 0:
            raise UserError(f"training.patience={self.patience}: negative")
        if self.factor is not None and not 0 < self.factor < 1:
            raise UserError(f"training.factor={self.factor}: not between 0 and 1", hint="training.factor=0.2")

    def check_warmup(self, total_steps: int) -> None:
        """UserError if the warm-up does not end before the last step, except for inverse_sqrt, published that way."""
        if self.schedule != "inverse_sqrt" and self.warmup > 1 and self.warmup >= total_steps:
            problem = f"training.warmup={self.warmup:g}: the run has {total_steps} steps and would not reach its rate"
            raise UserError(problem, hint="training.warmup=0.1, a share of all steps")

    def total_steps(self, steps_per_epoch: int) -> int:
        total = int(self.steps) if self.steps is not None else max(1, round(self.epochs * steps_per_epoch))  # type: ignore[operator]
        self.check_warmup(total)
        return total

    def validate_every(self, steps_per_epoch: int) -> int:
        total = self.total_steps(steps_per_epoch)
        validations = self.validations or (20 if self.epochs is None else max(1, math.floor(self.epochs)))
        return max(1, total // validations)


@dataclass(frozen=True)
class Hardware:
    """The devices a run uses, and how.

    devices, nodes  devices per node, and nodes: one process per device, each with an equal share of every batch
    compile         torch.compile every block
    graph           record forward and backward passes as CUDA graphs (see `lra.training.cuda_graphs`)
    threads         None leaves the choice to torch
    split           split batches if memory runs out (see `lra.training.microbatch`); False: end the run as oom
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
                raise UserError(f"trainer.{name}={value}: less than 1")
        for name, known in (("accelerator", ACCELERATORS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise UserError(f"trainer.{name}={getattr(self, name)}: not one of {', '.join(known)}")
        if self.checkpoint_seconds < 0:
            raise UserError(f"trainer.checkpoint_seconds={self.checkpoint_seconds}: negative")

    def notes(self) -> list[str]:
        """Notes for the record on how steps were computed."""
        notes = {
            f"{self.processes} processes, each with an equal share of every batch": self.processes > 1,
            "blocks compiled by torch.compile": self.compile,
            "steps of training recorded as CUDA graphs": self.graph,
        }
        return [note for note, applies in notes.items() if applies]

    @property
    def processes(self) -> int:
        return self.devices * self.nodes
