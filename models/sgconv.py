"""SGConv: a global convolution whose kernel joins a few short ones, each twice as wide as the previous and weaker.

Li et al. 2022, "What Makes Convolutional Models Great on Long Sequence Modeling?", arXiv:2210.09298, section 3.

B batch, L length, H features (the model width), K directions of a kernel, S scales, d taps of a scale.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import Dropout
from lra.ops.fftconv import long_conv


def initial_weights(init: str, n_scales: int, directions: int, features: int, kernel_dim: int) -> Tensor:
    """(S, K, H, d): "random" noise, or "cos" waves of 0 ... H - 1 periods, assigned to the features at random."""
    if init == "random":
        return torch.randn(n_scales, directions, features, kernel_dim)
    if init == "cos":
        phase = 2 * math.pi * torch.linspace(0, 1, kernel_dim)
        waves = torch.cos(torch.arange(features)[:, None] * phase)
        return torch.stack([waves[torch.randperm(features)].repeat(directions, 1, 1) for _ in range(n_scales)])
    raise ValueError(f"init: {init!r} is not one of random, cos")


class SGConv(nn.Module):
    """Convolution with a multi-scale kernel, skip, GELU, gated linear map.

    Scale i has d parameters, stretched by linear interpolation to d, d, 2 d, 4 d, ... taps (times 2^init_scale) and
    weighted by decay^(S - 1 - i); the scales follow one another until they cover max_len. Tap l of the kernel is
    divided by (l + 1)^decay_power, and the kernel by its initial norm.

    kernel_dim            d
    init_scale            the first scale is stretched by 2^init_scale
    decay_min, decay_max  factors between one scale and the next, spread evenly over the features
    decay_power           of the position in the kernel; 0: the scales alone decay
    bidirectional         adds a kernel that reads from the right
    init                  "random" or "cos"
    lr                    learning rate of the kernel; None: the optimiser's
    """

    strength: Tensor
    norm: Tensor

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        kernel_dim: int = 32,
        init_scale: int = 0,
        decay_min: float = 2.0,
        decay_max: float = 2.0,
        decay_power: float = 0.0,
        bidirectional: bool = True,
        init: str = "random",
        dropout: float = 0.0,
        tie_dropout: bool = True,
        lr: float | None = 0.001,
    ):
        super().__init__()
        self.causal = not bidirectional
        n_scales = max(1, 1 + math.ceil(math.log2(max_len / kernel_dim)) - init_scale)
        self.decay_power = decay_power
        self.stretches = [2 ** (max(0, i - 1) + init_scale) for i in range(n_scales)]
        decay = torch.linspace(decay_min, decay_max, d_model)
        strength = decay ** (n_scales - 1 - torch.arange(n_scales)[:, None])
        self.register_buffer("strength", strength[:, None, :, None], persistent=False)  # (S, 1, H, 1)
        self.weights = nn.Parameter(initial_weights(init, n_scales, 1 + bidirectional, d_model, kernel_dim))
        self.register_buffer("norm", torch.ones(1 + bidirectional, d_model, 1))
        with torch.no_grad():
            self.norm.copy_(self.kernel().norm(dim=-1, keepdim=True))
        self.D = nn.Parameter(torch.randn(d_model))
        self.dropout = Dropout(dropout, tied=tie_dropout)
        self.out = nn.Linear(d_model, 2 * d_model)
        self.optim = {"weights": {} if lr is None else {"lr": lr}}

    def kernel(self) -> Tensor:
        """All taps (K, H, at least max_len)."""
        scales = [
            F.interpolate(weights, scale_factor=float(stretch), mode="linear")
            for weights, stretch in zip(self.weights * self.strength, self.stretches, strict=True)
        ]
        taps = torch.cat(scales, dim=-1)
        position = torch.arange(1, taps.shape[-1] + 1, dtype=taps.dtype, device=taps.device)
        return taps * position**-self.decay_power / self.norm

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        u = x.masked_fill(~mask[..., None], 0).mT  # (B, H, L)
        y = F.gelu(long_conv(u, self.kernel(), self.D).mT)
        return F.glu(self.out(self.dropout(y)), -1)
