"""Long Conv: convolution kernels as long as the input, learned tap by tap; small taps are squashed to zero.

Fu et al. 2023, "Simple Hardware-Efficient Long Convolutions for Sequence Modeling", arXiv:2302.06646, section 3.

B batch, L length, H features (the model width), C kernels per feature, K directions of a kernel, M = max_len taps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import Dropout
from lra.nn.ssm import kernel_groups
from lra.ops.fftconv import long_conv


def initial_kernel(init: str, count: int, features: int, length: int) -> Tensor:
    """(count, H, M): "random" is noise of size 0.002; "geometric" is noise of size 0.02 that decays.

    The decay rates of the features grow geometrically from 1 to features / 2 per length.
    """
    noise = torch.randn(count, features, length)
    if init == "random":
        return 0.002 * noise
    if init == "geometric":
        rate = (features / 2) ** (torch.arange(features) / features)
        return 0.02 * noise * torch.exp(-rate[:, None] * torch.arange(length) / length)
    raise ValueError(f"init: {init!r} is not one of random, geometric")


class LongConv(nn.Module):
    """Convolution with a squashed kernel, skip, GELU, gated linear map.

    channels        C, kernels per feature; the output map mixes their results
    bidirectional   adds a kernel that reads from the right
    squash          threshold of the soft thresholding k -> sign(k) max(|k| - squash, 0)
    kernel_dropout  dropout of taps
    init            "random" or "geometric"
    lr              learning rate of the kernel; None: the optimiser's
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        channels: int = 2,
        bidirectional: bool = False,
        squash: float = 0.003,
        kernel_dropout: float = 0.2,
        init: str = "random",
        dropout: float = 0.0,
        tie_dropout: bool = False,
        lr: float | None = 0.001,
    ):
        super().__init__()
        self.causal = not bidirectional
        self.channels, self.squash, self.kernel_dropout = channels, squash, kernel_dropout
        kernel = initial_kernel(init, (1 + bidirectional) * channels, d_model, max_len)
        self.kernel = nn.Parameter(kernel.view(1 + bidirectional, channels * d_model, max_len))
        self.D = nn.Parameter(torch.randn(channels * d_model))
        self.dropout = Dropout(dropout, tied=tie_dropout)
        self.out = nn.Linear(channels * d_model, 2 * d_model)
        self.optim = kernel_groups(lr, {"kernel": "kernel"})

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        u = x.masked_fill(~mask[..., None], 0).mT.repeat(1, self.channels, 1)  # (B, C * H, L)
        kernel = F.softshrink(self.kernel[..., : u.shape[-1]], self.squash)
        kernel = F.dropout(kernel, self.kernel_dropout, self.training)
        y = F.gelu(long_conv(u, kernel, self.D).mT)  # (B, L, C * H)
        return F.glu(self.out(self.dropout(y)), -1)
