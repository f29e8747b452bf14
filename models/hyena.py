"""Hyena: products of the input's projections and long convolutions with kernels computed by a small network.

Poli et al. 2023, "Hyena Hierarchy", arXiv:2302.10866, definition 3.1 (the recurrence), section 3.3 (the filters).

B batch, L length, D model width, K directions of a kernel, M = max_len, T the max_len of the training.
"""

import math

import torch
from torch import Tensor, nn

from lra.nn.blocks import TrainedLength
from lra.nn.ssm import kernel_groups
from lra.ops.fftconv import long_conv


class Filters(TrainedLength):
    """Kernels h(t) = window(t) * network(positional code of t).

    As in the authors' code, code and window count positions in units of max_len. Weights keep the one they were trained
    with (T), so a layer built for another max_len has the same taps; a longer one extrapolates after them.

    n_features, directions  kernels (K, n_features, L)
    width                   of the two hidden layers with sines sin(w x); their frequencies w are learned
    bands                   complex exponentials of the code, with 0 ... bands - 1 periods over T
    """

    t: Tensor
    code: Tensor
    decay: Tensor

    def __init__(self, n_features: int, directions: int, max_len: int, *, width: int, bands: int, frequency: float):
        super().__init__()
        self.bands, self.length = bands, max_len
        t, code = self.positions(max_len)
        self.register_buffer("t", t, persistent=False)  # (M, 1)
        self.register_buffer("code", code, persistent=False)  # (M, 2 * bands + 1)
        # features decay to 1 % after between 0.3 and 1.5 times T
        decay = -math.log(0.01) * torch.linspace(1 / 1.5, 1 / 0.3, n_features)
        self.register_buffer("decay", decay, persistent=False)
        self.layers = nn.ModuleList([nn.Linear(2 * bands + 1, width), nn.Linear(width, width), nn.Linear(width, width)])
        self.frequency = nn.Parameter(torch.full((width,), frequency))
        self.out = nn.Linear(width, directions * n_features, bias=False)

    def positions(self, max_len: int) -> tuple[Tensor, Tensor]:
        """t (M, 1), from 0 to 1 at position T - 1, and its code (M, 2 * bands + 1)."""
        beyond = torch.arange(self.length, max(self.length, max_len)) / max(1, self.length - 1)
        t = torch.cat([torch.linspace(0, 1, self.length), beyond])[:max_len, None]
        bands = torch.linspace(1e-4, self.bands - 1, self.bands)
        angle = 2 * math.pi * torch.arange(max_len)[:, None] / self.length * bands
        return t, torch.cat([t, angle.cos(), -angle.sin()], dim=1)

    def set_length(self, length: int) -> None:
        self.length = length
        for buffer, values in zip((self.t, self.code), self.positions(len(self.t)), strict=True):
            buffer.copy_(values)

    def forward(self, length: int) -> Tensor:
        h = self.code[:length].to(self.frequency.dtype)
        for layer in self.layers:
            h = torch.sin(self.frequency * layer(h))
        window = torch.exp(-self.t[:length] * self.decay).to(h.dtype)  # (L, n_features)
        kernel = self.out(h).unflatten(-1, (-1, window.shape[-1])) * window[:, None]  # (L, K, n_features)
        return kernel.permute(1, 2, 0)


class Hyena(nn.Module):
    """y = x_1 * h_1(x_2 * h_2(... v)) with projections x_1, ..., x_N, v of the input and long convolutions h_i.

    As in the authors' code the innermost factor multiplies v before its convolution, so order N has N - 1 of them.

    order             N, at least 2
    filter_width      of the network that computes the kernels
    filter_bands      of its positional code
    filter_frequency  initial frequency of its sines
    short_filter      taps of the depth-wise convolution after the projections
    bidirectional     kernels also read from the right, and the short filter is centred; the paper's operator is causal
    lr                learning rate of the filters' network; None: the optimiser's
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        order: int = 2,
        filter_width: int = 64,
        filter_bands: int = 16,
        filter_frequency: float = 14.0,
        short_filter: int = 3,
        bidirectional: bool = False,
        lr: float | None = None,
    ):
        super().__init__()
        if order < 2:
            raise ValueError(f"order: {order} has no long convolution; hint: 2 has one")
        width = (order + 1) * d_model
        self.order, self.causal = order, not bidirectional
        # the short filter is padded by short_filter - 1 on both sides: where its output starts
        self.start = short_filter - 1 - ((short_filter - 1) // 2 if bidirectional else short_filter - 1)
        self.maps = nn.Linear(d_model, width)
        self.short = nn.Conv1d(width, width, short_filter, groups=width, padding=short_filter - 1)
        shape = {"width": filter_width, "bands": filter_bands}
        self.filters = Filters((order - 1) * d_model, 1 + bidirectional, max_len, frequency=filter_frequency, **shape)
        self.skip = nn.Parameter(torch.randn(order - 1, d_model))
        self.out = nn.Linear(d_model, d_model)
        self.optim = kernel_groups(lr, {f"filters.{name}": "kernel" for name, _ in self.filters.named_parameters()})

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        length, real = x.shape[1], mask[:, None]  # (B, 1, L)
        # the maps have a bias, which must not enter the convolutions at padded positions
        u = self.maps(x.masked_fill(~mask[..., None], 0)).mT * real
        u = self.short(u)[..., self.start : self.start + length]
        *factors, v = u.chunk(self.order + 1, dim=1)  # each (B, D, L)
        with torch.autocast(x.device.type, enabled=False):
            # adjacent filters go to different convolutions, so that each has slow and fast windows
            kernels = self.filters(length).unflatten(1, (-1, self.order - 1)).unbind(2)  # each (K, D, L)
        for factor, kernel, skip in zip(reversed(factors[1:]), kernels, self.skip, strict=True):
            v = long_conv(v * factor * real, kernel, skip)
        return self.out((v * factors[0]).mT)
