"""Megalodon: MEGA with a complex moving average, norms along time, normalised attention and two-hop residuals.

Ma et al. 2024, "Megalodon", arXiv:2404.08801, section 3. On LRA it has no causal mask, the moving average runs in both
directions and the norms are over all positions (appendix C). Its residuals skip two layers, so this is an encoder and
not a mixer.

B batch, L length, D model width, E width of the values, Z width of queries and keys, H heads, N orders of the moving
average, K directions, G groups of features, W chunk.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import Dropout
from lra.ops.fftconv import long_conv
from models.mega import power_sums
from models.rope_transformer import rotate


class SequenceNorm(nn.Module):
    """Group norm over all real positions, or (causal) at position t over positions 0 ... t.

    The second is the paper's timestep norm (section 3.2); the first is used for classification (appendix C).
    """

    def __init__(self, d_model: int, *, n_groups: int, causal: bool, eps: float = 1e-5):
        super().__init__()
        if d_model % n_groups:
            raise ValueError(f"norm_groups: {n_groups} groups do not divide d_model {d_model}")
        self.n_groups, self.causal, self.eps = n_groups, causal, eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        grouped = x.masked_fill(~mask[..., None], 0).unflatten(-1, (self.n_groups, -1))  # (B, L, G, D / G)

        def total(part: Tensor) -> Tensor:
            return part.cumsum(1) if self.causal else part.sum(1, keepdim=True)

        count = total(mask[..., None])
        # float64, because the variance is a small difference of long sums
        mean = total(grouped.mean(-1, dtype=torch.float64)) / count
        square = total(grouped.double().square().mean(-1)) / count
        scale = torch.rsqrt((square - mean.square()).clamp(min=0) + self.eps)
        y = (grouped - mean.to(x.dtype)[..., None]) * scale.to(x.dtype)[..., None]
        return y.flatten(-2) * self.weight + self.bias


class ComplexMovingAverage(nn.Module):
    """Complex exponential moving average (section 3.1) plus omega x.

    Each feature has N averages h_t = (1 - alpha delta) e^(i theta) h_(t-1) + alpha x_t, with angles that are multiples
    1 ... N of one, and the result Re(gamma . h_t) / sqrt(N). The second direction starts one position away.
    """

    def __init__(self, d_model: int, *, n_orders: int, bidirectional: bool):
        super().__init__()
        shape = (1 + bidirectional, d_model, n_orders)
        self.alpha = nn.Parameter(0.2 * torch.randn(shape))
        self.delta = nn.Parameter(0.2 * torch.randn(shape))
        # shares of the full turn 2 pi / N, from 1 / D to nearly one, assigned to the features at random
        share = torch.exp(-math.log(d_model) / d_model * torch.arange(1.0, d_model + 1)).clamp(max=0.99)
        self.theta = nn.Parameter(torch.stack([share.logit()[torch.randperm(d_model)] for _ in range(shape[0])]))
        self.gamma = nn.Parameter(torch.stack([torch.randn(shape), torch.zeros(shape)], dim=-1))
        self.omega = nn.Parameter(nn.init.trunc_normal_(torch.empty(d_model), std=0.25, a=-1, b=1))

    def kernel(self, length: int) -> Tensor:
        """Taps (K, D, length) of both directions."""
        alpha = self.alpha.sigmoid()
        n_orders = alpha.shape[-1]
        orders = torch.arange(1, n_orders + 1, device=alpha.device)
        angle = self.theta.sigmoid()[..., None] * orders * (2 * math.pi / n_orders)
        log_q = torch.complex(torch.log1p(-alpha * self.delta.sigmoid()), angle)
        c = alpha * torch.view_as_complex(self.gamma) / math.sqrt(n_orders)
        if len(c) == 2:
            c = torch.stack([c[0], c[1] * log_q[1].exp()])
        return power_sums(c, log_q, length).real

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            kernel = self.kernel(x.shape[1])
        return long_conv(x.mT, kernel, self.omega).mT


class NormalisedAttention(nn.Module):
    """Attention with queries and keys of length one, from one map of the moving average (section 3.3); no residual.

    chunk  W: attention within blocks of W positions, O(L W); None: over all positions, O(L^2)
    """

    def __init__(
        self,
        d_model: int,
        *,
        average: ComplexMovingAverage,
        d_value: int,
        d_key: int,
        n_heads: int,
        chunk: int | None,
        dropout: float,
        attention_dropout: float,
    ):
        super().__init__()
        if d_value % n_heads or d_key % (2 * n_heads):
            raise ValueError(f"n_heads: {n_heads} do not divide d_value {d_value} and, into even widths, d_key {d_key}")
        self.n_heads, self.chunk, self.attention_dropout = n_heads, chunk, attention_dropout
        self.average = average
        self.norm = nn.RMSNorm(d_model, eps=1e-5)
        self.value = nn.Linear(d_model, d_value)
        self.widths = [d_key, d_value, d_model]
        self.maps = nn.Linear(d_model, sum(self.widths))
        self.scale = nn.Parameter(torch.ones(2, d_key))
        self.shift = nn.Parameter(torch.zeros(2, d_key))
        self.out = nn.Linear(d_value, d_model, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        averaged = self.dropout(self.norm(self.average(x)))
        z, reset, bypass = self.maps(averaged).split(self.widths, dim=-1)
        z = z.unflatten(-1, (self.n_heads, -1))
        z = F.rms_norm(z, z.shape[-1:], eps=1e-5).flatten(-2) / math.sqrt(z.shape[-1])
        q, k = (z[..., None, :] * self.scale + self.shift).unbind(-2)  # each (B, L, Z)
        y = self.attend(q, k, F.silu(self.value(x)), mask)
        return self.dropout(bypass + self.out(self.dropout(y * F.silu(reset))))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """q, k (B, L, Z), v (B, L, E) -> (B, L, E); chunks become rows of the batch."""
        batch, length = mask.shape
        size = length if self.chunk is None else min(self.chunk, length)
        extra = -length % size
        q, k, v = (F.pad(part, (0, 0, 0, extra)).view(-1, size, part.shape[-1]) for part in (q, k, v))
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in (q, k, v))
        real = F.pad(mask, (0, extra)).view(-1, size)
        # a chunk of padding may see all keys: its result is unused, and softmax over no keys is nan
        real = real | ~real.any(1, keepdim=True)
        dropout = self.attention_dropout if self.training else 0.0
        q, k = rotate(q), rotate(k)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None], dropout_p=dropout, scale=1.0)
        return y.transpose(1, 2).reshape(batch, length + extra, -1)[:, :length]


class Block(nn.Module):
    """y = attention(norm(x)) + x, then feed(norm(y)) + x: pre-norm with a two-hop residual (section 3.4)."""

    def __init__(self, d_model: int, d_ff: int, norm: SequenceNorm, attention: nn.Module, dropout: float):
        super().__init__()
        self.norm, self.attention = norm, attention
        self.feed = nn.Sequential(
            nn.LayerNorm(d_model), nn.Linear(d_model, d_ff), nn.SiLU(), nn.Linear(d_ff, d_model), Dropout(dropout)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm(x, mask).masked_fill(~mask[..., None], 0)
        return x + self.feed(x + self.attention(h, mask))


class Megalodon(nn.Module):
    """Megalodon encoder.

    d_value, d_key  E and Z; by default 2 D and D / 2
    d_ff            width of the feed-forward network; by default 2 D
    n_heads         H
    n_orders        N
    norm            "group" over all positions, the paper's for classification, or "timestep" over those so far
    norm_groups     G; by default groups of 32 features, or the next larger size that divides D
    chunk           length of a chunk ("Megalodon-chunk"), None for full attention
    bidirectional   the average also runs from the right
    """

    def __init__(
        self,
        *,
        d_model: int,
        n_layers: int,
        max_len: int,
        dropout: float,
        d_value: int | None = None,
        d_key: int | None = None,
        d_ff: int | None = None,
        n_heads: int = 1,
        n_orders: int = 16,
        norm: str = "group",
        norm_groups: int | None = None,
        chunk: int | None = None,
        bidirectional: bool = True,
        attention_dropout: float = 0.0,
    ):
        super().__init__()
        if norm not in ("group", "timestep"):
            raise ValueError(f"norm: {norm!r} is not one of group, timestep")
        if norm_groups is None:
            norm_groups = next(n for n in range(max(1, d_model // 32), 0, -1) if d_model % n == 0)
        make_norm = partial(SequenceNorm, d_model, n_groups=norm_groups, causal=norm == "timestep")

        self.blocks = nn.ModuleList()
        for _ in range(n_layers):
            attention = NormalisedAttention(
                d_model,
                average=ComplexMovingAverage(d_model, n_orders=n_orders, bidirectional=bidirectional),
                d_value=d_value or 2 * d_model,
                d_key=d_key or d_model // 2,
                n_heads=n_heads,
                chunk=chunk,
                dropout=dropout,
                attention_dropout=attention_dropout,
            )
            self.blocks.append(Block(d_model, d_ff or 2 * d_model, make_norm(), attention, dropout))
        self.norm = make_norm()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x, mask)
