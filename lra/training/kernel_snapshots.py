"""Convolution kernels of a model before and after training, as small as a record needs them.

A layer that makes a kernel has a method `kernel(self, length: int)` that gives (K, H, length), K outputs of H features;
the first output reads forwards. Any other method of that name is not one of these.
"""

import inspect
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lra.records.pictures import signed
from lra.records.record import Kernel

RANGES = 32
LONGEST = 16_384


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers that make a convolution kernel of a length asked for, first to last."""
    return [m for m in model.modules() if callable(make := getattr(m, "kernel", None)) and takes_length(make)]


def takes_length(make: object) -> bool:
    parameters = inspect.signature(make).parameters.values()  # type: ignore[arg-type]
    return [p.annotation for p in parameters] in ([int], ["int"])


@torch.no_grad()
def forward_kernels(model: nn.Module, length: int) -> dict[int, Tensor]:
    """Number of the layer -> its forward kernel (H, length) on the CPU: of the first and the last that has one."""
    makers: list[Callable[[int], object]] = [layer.kernel for layer in layers_of(model)]  # type: ignore[misc]
    made = {i: makers[i](length) for i in sorted({0, len(makers) - 1}) if makers}
    return {
        i: kernel[0].float().cpu().clone()
        for i, kernel in made.items()
        if isinstance(kernel, Tensor) and kernel.dim() == 3 and kernel.shape[-1] == length
    }


def telling(first: Tensor, last: Tensor, rows: int) -> list[int]:
    """Features from short to long memory, and of those alike the one that training changed most (or the strongest).

    first, last  kernels (H, L) before and after
    """
    age = torch.arange(last.shape[-1])
    centre = (last.abs() * age).sum(-1) / last.abs().sum(-1).clamp(min=1e-30)
    change = (last - first if first is not last else last).norm(dim=-1) / last.norm(dim=-1).clamp(min=1e-12)
    groups = centre.argsort().tensor_split(rows)
    return [int(group[change[group].argmax()]) for group in groups if len(group)]


def ranges(length: int, count: int = RANGES) -> list[int]:
    """Where ranges of positions begin that grow wider by a factor: 0, 1, 2, 3, 5, ..., at most so many."""
    wanted = np.geomspace(1, length + 1, count + 1)[:-1].astype(int) - 1
    return sorted(set(wanted.tolist()))


def envelope(kernel: np.ndarray, starts: list[int]) -> list[list[float]]:
    """Lowest and highest value of each range, to three digits: nothing between two ranges is lost to sampling."""
    lows, highs = np.minimum.reduceat(kernel, starts), np.maximum.reduceat(kernel, starts)
    return [[float(f"{v:.3g}") for v in line] for line in (lows, highs)]


def before_and_after(before: dict[int, Tensor], after: dict[int, Tensor], *, picture: bool) -> list[Kernel]:
    """A few telling features of each layer. Kernels that are no longer finite are left out.

    picture  the sequence is the rows of a square image, and a kernel is shown as one
    """
    found = []
    for layer, last in after.items():
        first = before[layer]
        if not (first.isfinite().all() and last.isfinite().all()):
            continue
        length = last.shape[-1]
        side = math.isqrt(length) if picture else 0
        starts = ranges(length)
        for h in telling(first, last, 2 if picture else 3):
            one, two = first[h].numpy(), last[h].numpy()
            shown = [signed(k[: side * side].reshape(side, side)) if side else None for k in (one, two)]
            found.append(
                Kernel(
                    layer=layer,
                    feature=h,
                    length=length,
                    starts=starts,
                    before=envelope(one, starts),
                    after=envelope(two, starts),
                    picture_before=shown[0],
                    picture_after=shown[1],
                )
            )
    return found
