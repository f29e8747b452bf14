"""Parameter counts, and the width at which a model has as many parameters as the Transformer of the same task.

LRA's rule (Tay et al. 2021, arXiv:2011.04006, section 3): no model has more than 10 % more parameters.
"""

import math
from collections.abc import Callable

import torch
from torch import nn

TOLERANCE = 1.1
STEPS = (8, 16, 32, 64, 128)  # heads, groups and chunks of features need a multiple of one of these


class TooLarge(ValueError):
    """Even the smallest width that the model accepts, `width`, has more than `limit` parameters."""

    def __init__(self, n_parameters: int, width: int, limit: float) -> None:
        super().__init__(f"has {n_parameters:,} parameters at the least width, {width}, and {limit:,.0f} is the limit")
        self.width, self.limit = width, limit


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers; a complex number counts as two."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters() if p.requires_grad)


def count_built(build: Callable[[], nn.Module]) -> int:
    """Parameters of the model that `build` returns, built on the meta device (without memory) where possible."""
    try:
        with torch.device("meta"):
            return count_parameters(build())
    except (RuntimeError, NotImplementedError):  # it computes with numbers while it is built
        return count_parameters(build())


def fitting_width(count_at: Callable[[int], int], reference: int) -> int:
    """The width whose parameter count is nearest to `reference`, among those with at most 10 % more.

    count_at   parameters at a width, non-decreasing; ValueError if the model refuses the width
    reference  parameters of the Transformer
    raises     TooLarge if even the narrowest model is; ValueError if no width is accepted
    """
    step = _accepted_step(count_at)
    limit = TOLERANCE * reference
    if (smallest := count_at(step)) > limit:
        raise TooLarge(smallest, step, limit)
    low, high, halve = 1, None, False  # in steps; count_at(low) <= reference < count_at(high)
    while high is None or high - low > 1:
        count = count_at(low * step)
        if high is None:
            middle = max(2 * low, int(low * math.sqrt(reference / count)))
        elif halve:
            middle = (low + high) // 2
        else:
            # interpolate as a power of the width, which the count nearly is
            power = math.log(count_at(high * step) / count) / math.log(high / low)
            middle = min(max(int(low * (reference / count) ** (1 / power)), low + 1), high - 1)
        if middle * step > 2**16:
            raise ValueError(f"has {count:,} parameters at width {low * step} and hardly more at larger ones")
        halve = not halve
        low, high = (middle, high) if count_at(middle * step) <= reference else (low, middle)
    allowed = [k * step for k in (low, high) if count_at(k * step) <= limit]
    return min(allowed, key=lambda width: abs(count_at(width) - reference))


def _accepted_step(count_at: Callable[[int], int]) -> int:
    """The smallest of STEPS whose multiples the model accepts."""
    refusal = ""
    for step in STEPS:
        try:
            count_at(15 * step)  # not a multiple of a larger step, and not a special case of a narrow model
        except ValueError as error:
            refusal = str(error)
        else:
            return step
    raise ValueError(f"accepts no width that was tried: {refusal}")
