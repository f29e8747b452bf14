"""FNet: mixing by a Fourier transform over positions and features; no parameters.

Lee-Thorp et al. 2022 (arXiv:2105.03824), equation 3.
B batch, L length, D model width.
"""

from typing import Any

import torch
from torch import Tensor, nn


class FNet(nn.Module):
    """The real part of the two-dimensional DFT of each example: O(L log L).

    Rows of different length are transformed separately, one call for each length in the batch, so padding never
    changes a real position. Half precision is raised to float32.
    """

    def __init__(self, d_model: int, max_len: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1)
        distinct = lengths.unique().tolist()
        if distinct == [x.shape[1]]:
            return real_dft(x)
        y = torch.zeros_like(x)
        for length in distinct:
            rows = lengths == length
            y[rows, :length] = real_dft(x[rows, :length])
        return y  # (B, L, D)


def real_dft(x: Tensor) -> Tensor:
    """Re(F_L x F_D) of real x (..., L, D), in the dtype of x."""
    # reduced precision has no transform at lengths that are not powers of two
    full = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return RealDFT.apply(full).to(x.dtype)


class RealDFT(torch.autograd.Function):
    """x -> C_L x C_D - S_L x S_D with cosines C and sines S, which are symmetric: the gradient is the map itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        D = x.shape[-1]
        half = torch.fft.rfft2(x).real  # features 0 to D / 2
        # of real x the spectrum at (k, d) and (-k, -d) is conjugate
        rest = half[..., 1 : D - D // 2].flip(-1)
        rest = torch.cat([rest[..., :1, :], rest[..., 1:, :].flip(-2)], -2)
        return torch.cat([half, rest], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return RealDFT.apply(gradient)
