"""Convolution kernels of a model before and after training, reduced to the size of a record.

A layer with a kernel has a method `kernel(self, length: int)` that returns (K, H, length): K outputs of H features, the
first of which reads forwards. Methods of that name with other arguments are ignored.
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


def layers_with_kernel(model: nn.Module) -> list[nn.Module]:
    """The layers with a method `kernel(length: int)`, first to last."""

    def takes_length(method: Callable) -> bool:
        return [p.annotation for p in inspect.signature(method).parameters.values()] in ([int], ["int"])

    return [m for m in model.modules() if callable(method := getattr(m, "kernel", None)) and takes_length(method)]


@torch.no_grad()
def forward_kernels(model: nn.Module, length: int) -> dict[int, Tensor]:
    """Layer number -> its forward kernel (H, length) on the CPU, for the first and the last layer that has one."""
    methods: list[Callable[[int], object]] = [m.kernel for m in layers_with_kernel(model)]  # type: ignore[misc]
    kernels = {i: methods[i](length) for i in sorted({0, len(methods) - 1}) if methods}
    return {
        i: kernel[0].float().cpu().clone()
        for i, kernel in kernels.items()
        if isinstance(kernel, Tensor) and kernel.dim() == 3 and kernel.shape[-1] == length
    }


def representative_features(first: Tensor, last: Tensor, n: int) -> list[int]:
    """One feature from each of n groups from short to long memory: the one that training changed most.

    first, last  kernels (H, L) before and after training; the same tensor twice: the strongest feature instead
    """
    age = torch.arange(last.shape[-1])
    centre = (last.abs() * age).sum(-1) / last.abs().sum(-1).clamp(min=1e-30)
    change = (last - first if first is not last else last).norm(dim=-1) / last.norm(dim=-1).clamp(min=1e-12)
    groups = centre.argsort().tensor_split(n)
    return [int(group[change[group].argmax()]) for group in groups if len(group)]


def ranges(length: int, count: int = RANGES) -> list[int]:
    """Starts of at most `count` ranges of positions of geometrically growing width: 0, 1, 2, 3, 5, ..."""
    starts = np.geomspace(1, length + 1, count + 1)[:-1].astype(int) - 1
    return sorted(set(starts.tolist()))


def envelope(kernel: np.ndarray, starts: list[int]) -> list[list[float]]:
    """Lowest and highest value of each range, to three digits."""
    lows, highs = np.minimum.reduceat(kernel, starts), np.maximum.reduceat(kernel, starts)
    return [[float(f"{v:.3g}") for v in values] for values in (lows, highs)]


def before_and_after(before: dict[int, Tensor], after: dict[int, Tensor], *, picture: bool) -> list[Kernel]:
    """A few representative features of each layer; kernels that are not finite are left out.

    picture  the sequence is a square image, row by row, and kernels are shown as images
    """
    kept = []
    for layer, last in after.items():
        first = before[layer]
        if not (first.isfinite().all() and last.isfinite().all()):
            continue
        length = last.shape[-1]
        side = math.isqrt(length) if picture else 0
        starts = ranges(length)
        for h in representative_features(first, last, 2 if picture else 3):
            pair = first[h].numpy(), last[h].numpy()
            pictures = [signed(k[: side * side].reshape(side, side)) if side else None for k in pair]
            kept.append(
                Kernel(
                    layer=layer,
                    feature=h,
                    length=length,
                    starts=starts,
                    before=envelope(pair[0], starts),
                    after=envelope(pair[1], starts),
                    picture_before=pictures[0],
                    picture_after=pictures[1],
                )
            )
    return kept
