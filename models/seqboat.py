"""SeqBoat: a moving average everywhere, attention only among positions selected by a router.

Ren et al. 2023, "Sparse Modular Activation for Efficient Sequence Modeling", arXiv:2306.11197. The selected positions
form a shorter sequence, on which a gated attention unit with a sliding window runs. The activation comes after the
residual, so this is an encoder and not a mixer.

B batch, L length, D model width, M selected positions (of the longest row), E width of the values, Z width of queries
and keys, W window, n blocks of W positions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.attention import with_neighbours
from lra.nn.blocks import Dropout, Norm
from models.mega import MovingAverage


class SlidingAttention(nn.Module):
    """Attention to positions at most W away, O(M W), with a learned bias for each distance.

    attention  "softmax", or "relu2": squared ReLU of scores divided by 2 W
    distance   "compressed": counted in selected positions; "original": in positions of the input
    """

    def __init__(self, max_len: int, *, window: int, attention: str, distance: str, dropout: float):
        super().__init__()
        if attention not in ("softmax", "relu2"):
            raise ValueError(f"attention: {attention!r} is not one of softmax, relu2")
        if distance not in ("compressed", "original"):
            raise ValueError(f"distance: {distance!r} is not one of compressed, original")
        self.window, self.attention, self.distance = window, attention, distance
        self.farthest = min(window, max_len) if distance == "compressed" else max_len - 1
        self.bias = nn.Parameter(0.02 * torch.randn(2 * self.farthest + 1))
        self.dropout = Dropout(dropout)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, position: Tensor, real: Tensor) -> Tensor:
        """q, k (B, M, Z), v (B, M, E), their positions in the input (B, M) and mask (B, M) -> (B, M, E)."""
        length, size = q.shape[1], min(self.window, q.shape[1])
        extra = -length % size
        q, k, v = (F.pad(part, (0, 0, 0, extra)).unflatten(1, (-1, size)) for part in (q, k, v))
        position, real = (F.pad(part, (0, extra)).unflatten(1, (-1, size)) for part in (position, real))
        rank = torch.arange(length + extra, device=q.device).view(1, -1, size)
        k, v, real = (with_neighbours(part) for part in (k, v, real))  # (B, n, 3 W, ...)
        scores = q @ k.mT  # (B, n, W, 3 W)

        def distance(x: Tensor) -> Tensor:
            return with_neighbours(x)[:, :, None] - x[..., None]

        near = (distance(rank).abs() <= self.window) & real[:, :, None]
        distances = distance(rank if self.distance == "compressed" else position)
        bias = self.bias[distances.clamp(-self.farthest, self.farthest) + self.farthest]
        if self.attention == "softmax":
            scores = scores / math.sqrt(q.shape[-1]) + bias
            # finite: a query without keys is unused, but nan would spoil gradients
            weights = scores.masked_fill(~near, torch.finfo(scores.dtype).min).softmax(-1)
        else:
            weights = F.relu(scores / (2 * self.window) + bias).square() * near
        return (self.dropout(weights.to(v.dtype)) @ v).flatten(1, 2)[:, :length]


class Layer(nn.Module):
    """act(x + W m + p * GAU(selected m)), m the moving average, p the router's probability; norm before or after."""

    def __init__(
        self,
        d_model: int,
        *,
        average: MovingAverage,
        attention: SlidingAttention,
        norm: Norm,
        prenorm: bool,
        d_value: int,
        d_key: int,
        temperature: float,
        dropout: float,
    ):
        super().__init__()
        self.average, self.attention, self.norm, self.prenorm = average, attention, norm, prenorm
        self.widths = [d_key, d_value, d_value]
        self.bypass = nn.Linear(d_model, d_model)
        self.router = nn.Linear(d_model, 2)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature * math.sqrt(d_model))))
        self.maps = nn.Linear(d_model, sum(self.widths))
        self.scale = nn.Parameter(0.02 * torch.randn(2, d_key))
        self.shift = nn.Parameter(torch.zeros(2, d_key))
        self.out = nn.Linear(d_value, d_model)
        self.dropout = Dropout(dropout)
        for layer in (self.bypass, self.router, self.maps, self.out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.norm(x, mask) if self.prenorm else x
        averaged = self.dropout(self.average(y.masked_fill(~mask[..., None], 0)))
        probability, choice = (self.router(averaged) / self.log_temperature.exp()).softmax(-1).max(-1)  # (B, L)
        active = (choice == 1) & mask
        h = self.activate(averaged, active) * probability[..., None]
        x = F.silu(x + self.bypass(averaged) + h)
        return x if self.prenorm else self.norm(x, mask)

    def activate(self, averaged: Tensor, active: Tensor) -> Tensor:
        """The gated attention unit on active positions (B, L), zeros elsewhere: (B, L, D)."""
        count = active.sum(1, keepdim=True)
        # M; a GPU is synchronised here
        longest = max(1, int(count.max()))
        position = torch.sort((~active).to(torch.uint8), dim=1, stable=True).indices[:, :longest]  # (B, M)
        real = torch.arange(longest, device=position.device) < count
        selected = averaged.take_along_dim(position[..., None], dim=1)  # (B, M, D)
        z, reset, v = F.silu(self.maps(selected)).split(self.widths, dim=-1)
        q, k = (z[..., None, :] * self.scale + self.shift).unbind(-2)  # each (B, M, Z)
        h = self.dropout(self.out(self.attention(q, k, v, position, real) * reset)) * real[..., None]
        index = position[..., None].expand(-1, -1, h.shape[-1])
        return torch.zeros_like(averaged, dtype=h.dtype).scatter(1, index, h)


class SeqBoat(nn.Module):
    """SeqBoat encoder.

    d_value, d_key  E and Z; by default 2 D and D / 2
    window          W
    attention, distance  of `SlidingAttention`
    temperature     initial temperature of the router, in units of sqrt(D)
    n_orders, bidirectional, truncation  of the moving average
    norm, prenorm   of `lra.nn.blocks`
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
        n_orders: int = 16,
        window: int = 128,
        attention: str = "softmax",
        distance: str = "compressed",
        temperature: float = 0.3,
        bidirectional: bool = True,
        truncation: int | None = None,
        attention_dropout: float = 0.0,
        norm: str = "layer",
        prenorm: bool = False,
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(
                d_model,
                average=MovingAverage(d_model, n_orders=n_orders, bidirectional=bidirectional, truncation=truncation),
                attention=SlidingAttention(
                    max_len, window=window, attention=attention, distance=distance, dropout=attention_dropout
                ),
                norm=Norm(norm, d_model, ragged=True),
                prenorm=prenorm,
                d_value=d_value or 2 * d_model,
                d_key=d_key or d_model // 2,
                temperature=temperature,
                dropout=dropout,
            )
            for _ in range(n_layers)
        )
        self.norm = Norm(norm, d_model, ragged=True) if prenorm else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return x if self.norm is None else self.norm(x, mask)
