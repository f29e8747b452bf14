"""Rows of different length read from their own ends. B batch, L length, D width."""

import torch
from torch import Tensor


def reverse(x: Tensor, mask: Tensor) -> Tensor:
    """The real positions of each row in the opposite order, padding left where it is: x (B, L, D), mask (B, L)."""
    batch, length = mask.shape
    step = torch.arange(length, device=x.device)
    index = torch.where(mask, mask.sum(1, keepdim=True) - 1 - step, step)  # (B, L)
    # whole rows of (B * L, D): a gather element by element is slow
    return Rows.apply(x, (index + length * torch.arange(batch, device=x.device)[:, None]).flatten())


class Rows(torch.autograd.Function):
    """Rows in another order that undoes itself, so its gradient is the same order again and adds nothing up."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        return x.flatten(0, 1).index_select(0, index).view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return Rows.apply(grad, index), None
