"""One size for all: the width at which a model is as large as the Transformer of the same task.

LRA's rule (Tay et al. 2021, arXiv:2011.04006, section 3) lets no model have more than a tenth more parameters.
"""

import math
from collections.abc import Callable

import torch
from torch import nn

ROOM = 1.1
STEPS = (8, 16, 32, 64, 128)  # heads, groups and chunks of features want a multiple of one of these


class TooLarge(ValueError):
    """No width is small enough: `width` is the least that the model takes, and `limit` parameters are allowed."""

    def __init__(self, least: int, width: int, limit: float) -> None:
        super().__init__(f"has {least:,} parameters at the least width, {width}, and {limit:,.0f} is the limit")
        self.width, self.limit = width, limit


def parameters(model: nn.Module) -> int:
    """Trainable numbers, real and imaginary parts counted apart."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters() if p.requires_grad)


def count(build: Callable[[], nn.Module]) -> int:
    """Parameters of what `build` makes; memory is taken only for a model that reads numbers while it is built."""
    try:
        with torch.device("meta"):
            return parameters(build())
    except (RuntimeError, NotImplementedError):
        return parameters(build())


def fitting_width(count_at: Callable[[int], int], reference: int) -> int:
    """The width whose number of parameters is nearest to `reference`, of those with at most a tenth more.

    count_at   parameters at a width, never fewer at a larger one; ValueError where the model refuses the width
    reference  the Transformer's parameters
    raises     TooLarge if the narrowest is, another ValueError if no width is taken
    """
    step = _step(count_at)
    if (least := count_at(step)) > ROOM * reference:
        raise TooLarge(least, step, ROOM * reference)
    low, high, halve = 1, None, False  # in steps; count_at(low) <= reference < count_at(high)
    while high is None or high - low > 1:
        few = count_at(low * step)
        if high is None:
            middle = max(2 * low, int(low * math.sqrt(reference / few)))
        elif halve:
            middle = (low + high) // 2
        else:
            # as a power of the width, which is nearly what it is
            power = math.log(count_at(high * step) / few) / math.log(high / low)
            middle = min(max(int(low * (reference / few) ** (1 / power)), low + 1), high - 1)
        if middle * step > 2**16:
            raise ValueError(f"has {few:,} parameters at width {low * step} and hardly more at larger ones")
        halve = not halve
        low, high = (middle, high) if count_at(middle * step) <= reference else (low, middle)
    near = [k * step for k in (low, high) if count_at(k * step) <= ROOM * reference]
    return min(near, key=lambda width: abs(count_at(width) - reference))


def _step(count_at: Callable[[int], int]) -> int:
    """The smallest of STEPS whose multiples the model takes."""
    refused = ""
    for step in STEPS:
        try:
            count_at(15 * step)  # no multiple of a larger one, and no special case of a narrow model
        except ValueError as error:
            refused = str(error)
        else:
            return step
    raise ValueError(f"takes no width we know: {refused}")
