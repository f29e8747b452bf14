"""FNet: mixing by a Fourier transform over positions and features, without parameters.

Lee-Thorp et al. 2022 (arXiv:2105.03824), equation 3.
B batch, L length, D model width.
"""

import torch
from torch import Tensor, nn


class FNet(nn.Module):
    """The real part of the two-dimensional DFT of each example: O(L log L).

    The transform of a short example depends on its own length only: rows of a ragged batch are transformed apart, one
    call for each length in the batch, so padding never changes a real position. Half precision is raised to float32.
    """

    def __init__(self, d_model: int, max_len: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1)
        y = torch.zeros_like(x)
        for length in lengths.unique().tolist():
            rows = lengths == length
            part = x[rows, :length]
            # the reduced precisions have no transform at lengths that are not powers of two
            full = part.float() if part.dtype in (torch.bfloat16, torch.float16) else part
            y[rows, :length] = torch.fft.fft2(full, dim=(1, 2)).real.to(x.dtype)
        return y  # (B, L, D)
