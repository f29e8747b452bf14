"""CDIL-CNN: circular dilated convolutions.

Cheng et al. 2022, arXiv:2201.02143, section 3: a stack of convolutions whose dilation doubles, over a sequence closed
to a ring, so that no position is at a border and all contribute alike to the class (mean pooling, linear head).

B batch, L length, D model width, k kernel size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


def ring(x: Tensor, lengths: Tensor, reach: int) -> Tensor:
    """Circular padding by `reach` of each row's real positions: (B, L, D) -> (B, L + 2 * reach, D).

    Entry p of the result is x[(p - reach) mod length], however much padding the batch adds.
    """
    position = torch.arange(-reach, x.shape[1] + reach, device=x.device)
    return x.take_along_dim((position % lengths[:, None])[..., None], dim=1)


class Block(nn.Module):
    """x + relu(dropout(circular convolution of x)); the weight is normalised (Salimans and Kingma 2016)."""

    def __init__(self, d_model: int, *, kernel_size: int, dilation: int, dropout: float):
        super().__init__()
        self.reach = dilation * (kernel_size - 1) // 2
        conv = nn.Conv1d(d_model, d_model, kernel_size, dilation=dilation)
        assert conv.bias is not None
        nn.init.normal_(conv.bias, std=0.01)
        self.conv = weight_norm(conv)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        y = self.conv(ring(x, lengths, self.reach).transpose(1, 2)).transpose(1, 2)
        return x + F.relu(self.dropout(y))


class CDIL(nn.Module):
    """CDIL-CNN encoder: cycles of blocks with dilations 1, 2, 4, ...

    n_layers     blocks, but at least one cycle, after which a position has seen max_len - 2 others: 9 at length 1024
                 and 11 at 4000, the published depths; more blocks begin the next cycle
    kernel_size  odd, so that a neighbourhood has a centre
    """

    def __init__(self, *, d_model: int, n_layers: int, max_len: int, dropout: float, kernel_size: int = 3):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: {kernel_size} is even; hint: a symmetric neighbourhood needs an odd size")
        cycle = max(1, math.ceil(math.log2(max_len)) - 1)
        self.blocks = nn.ModuleList(
            Block(d_model, kernel_size=kernel_size, dilation=2 ** (i % cycle), dropout=dropout)
            for i in range(max(n_layers, cycle))
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1)
        for block in self.blocks:
            x = block(x, lengths)
        return x
