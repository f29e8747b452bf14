"""Padded sequences: reversing, the last real position. B batch, L length, D width."""

from typing import Any

import torch
from torch import Tensor


def reverse(x: Tensor, mask: Tensor) -> Tensor:
    """Reverse the real positions of each row; padding stays in place. x (B, L, D), mask (B, L)."""
    batch, length = mask.shape
    step = torch.arange(length, device=x.device)
    index = torch.where(mask, mask.sum(1, keepdim=True) - 1 - step, step)  # (B, L)
    # select rows of (B * L, D), which is much faster than an element-wise gather
    return PermuteRows.apply(x, (index + length * torch.arange(batch, device=x.device)[:, None]).flatten())


def append(window: Tensor, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, L, D) after a window (B, W, D) of earlier positions, and the window of the last W real positions."""
    joined = torch.cat([window.to(x.dtype), x], 1)
    last = mask.sum(1)[:, None] + torch.arange(window.shape[1], device=x.device)
    return joined, joined.take_along_dim(last[..., None], 1)


def last_real(x: Tensor, mask: Tensor, otherwise: Tensor) -> Tensor:
    """x (B, L, ...) at the last real position of each row; `otherwise` (B, ...) for a row without any."""
    lengths = mask.sum(1)
    last = x[torch.arange(len(x), device=x.device), (lengths - 1).clamp(min=0)]
    return torch.where((lengths > 0).view(-1, *[1] * (last.dim() - 1)), last, otherwise)


class PermuteRows(torch.autograd.Function):
    """Permute rows by an index that is its own inverse, so the gradient is the same permutation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        return x.flatten(0, 1).index_select(0, index).view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return PermuteRows.apply(grad, index), None
