"""AdamW with parameter groups declared by the modules, and the learning-rate schedules of the papers."""

import math
from collections.abc import Callable

import torch
from torch import nn

from lra.errors import UserError


def param_groups(model: nn.Module) -> list[dict]:
    """Optimiser groups: one for each distinct set of overrides, and one with the optimiser's defaults.

    A module declares overrides for its own parameters as `self.optim = {"log_dt": {"lr": 1e-3, "weight_decay": 0.0}}`;
    None keeps the default. Each group has the names of its parameters under "names".
    raises  AttributeError for a name that is not a parameter; ValueError for a value that is not a number
    """
    special: dict[nn.Parameter, dict] = {}
    for module in model.modules():
        for name, hyper in getattr(module, "optim", {}).items():
            for key, value in hyper.items():
                if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                    raise ValueError(f"{key} of {name} is {value!r}: not a number")
            special[module.get_parameter(name)] = {k: v for k, v in hyper.items() if v is not None}
    groups: dict[tuple, dict] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        hyper = special.get(p, {})
        group = groups.setdefault(tuple(sorted(hyper.items())), {"params": [], "names": [], **hyper})
        group["params"].append(p)
        group["names"].append(name)
    return list(groups.values())


def adamw(
    model: nn.Module, *, lr: float, weight_decay: float = 0.0, betas: tuple = (0.9, 0.999), eps: float = 1e-8
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over the declared groups, fused on CPU and CUDA."""
    groups = param_groups(model)
    devices = {p.device.type for p in model.parameters()}
    optimizer = torch.optim.AdamW(
        groups, lr=lr, weight_decay=weight_decay, betas=tuple(betas), eps=eps, fused=devices <= {"cpu", "cuda"}
    )
    optimizer.register_step_post_hook(increment_versions)
    return optimizer


def increment_versions(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Increment the parameters' version counters, which fused AdamW does not; `lra.nn.ssm` relies on them."""
    torch.autograd.graph.increment_version(p for group in optimizer.param_groups for p in group["params"])


def inverse_sqrt(step: int, warmup_steps: int) -> float:
    """min(1, step / warm-up) / sqrt(max(step, warm-up)), steps from 1, as in the LRA repository's text-like tasks.

    The configured rate is not the peak: 0.05 with 8000 warm-up steps peaks at 0.05 / sqrt(8000) = 5.6e-4.
    """
    step += 1
    return min(1.0, step / max(1, warmup_steps)) / math.sqrt(max(step, warmup_steps))


# factor after the warm-up, by steps done and steps in all since then
DECAYS: dict[str, Callable[[int, int], float]] = {
    "cosine": lambda done, steps: 0.5 * (1.0 + math.cos(math.pi * min(1.0, done / max(1, steps)))),
    "linear": lambda done, steps: max(0.0, (steps - done) / max(1, steps)),
    "constant": lambda done, steps: 1.0,
}
SCHEDULES = ("cosine", "linear", "inverse_sqrt", "constant", "plateau")
PATIENCE, FACTOR = 20, 0.2  # of a plateau, as in the S4 repository


class Plateau:
    """Warm-up to 1, then lower whenever validation has not improved for a while: torch's ReduceLROnPlateau.

    patience  validations in a row without improvement that are tolerated; the next one multiplies the rate by `factor`
    An improvement is a score better than the best one by more than a 10,000th of it, torch's default.
    Without validations, as in a pretraining, the rate stays. LambdaLR saves the attributes with a checkpoint.
    """

    def __init__(self, warmup_steps: int, *, patience: int, factor: float, higher_is_better: bool):
        self.warmup_steps, self.patience, self.factor = warmup_steps, patience, factor
        self.sign = 1 if higher_is_better else -1
        self.best = -self.sign * math.inf
        self.without_improvement, self.reductions = 0, 0

    def __call__(self, step: int) -> float:
        return min(1.0, (step + 1) / max(1, self.warmup_steps)) * self.factor**self.reductions

    def validated(self, score: float) -> None:
        """Take note of a validation's score."""
        if self.sign * score > self.sign * self.best * (1 + self.sign * 1e-4):
            self.best, self.without_improvement = score, 0
        else:
            self.without_improvement += 1
        if self.without_improvement > self.patience:
            self.reductions, self.without_improvement = self.reductions + 1, 0


def schedule(
    name: str,
    total_steps: int,
    warmup: float,
    *,
    patience: int | None = None,
    factor: float | None = None,
    higher_is_better: bool = True,
) -> Callable[[int], float]:
    """Factor on the learning rate as a function of the step: linear warm-up to 1, then a decay to the last step.

    warmup            a share of all steps if below 1, otherwise a number of steps
    patience, factor  of a plateau (None: PATIENCE, FACTOR), whose `validated` takes the scores of validations
    """
    if name not in SCHEDULES:
        raise UserError(f"schedule: {name!r} is not one of {', '.join(SCHEDULES)}")
    warmup_steps = round(warmup * total_steps) if warmup < 1 else int(warmup)
    if name == "plateau":
        patience, factor = PATIENCE if patience is None else patience, FACTOR if factor is None else factor
        return Plateau(warmup_steps, patience=patience, factor=factor, higher_is_better=higher_is_better)

    def factor_at(step: int) -> float:
        if name == "inverse_sqrt":
            return inverse_sqrt(step, warmup_steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return DECAYS[name](step - warmup_steps, total_steps - warmup_steps)

    return factor_at
