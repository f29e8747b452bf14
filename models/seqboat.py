"""SeqBoat: a moving average everywhere, attention only among the positions that ask for it.

Ren et al. 2023, "Sparse Modular Activation for Efficient Sequence Modeling", arXiv:2306.11197. A router selects
positions, the selected ones move together, and a gated attention unit with a sliding window runs on this shorter
sequence. The activation comes after the residual, so this is a whole encoder and not a mixer.

B batch, L length, D model width, M selected positions (of the longest row), E width of the values, Z width of queries
and keys, W window, n blocks of W positions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import Dropout, Norm

# the paper takes this layer from MEGA as it is
from models.mega import MovingAverage


def neighbourhoods(x: Tensor, size: int) -> Tensor:
    """Each block with the two beside it, zeros outside: (B, n * W, ...) -> (B, n, 3 * W, ...)."""
    blocks = x.unflatten(1, (-1, size))
    zeros = torch.zeros_like(blocks[:, :1])
    padded = torch.cat([zeros, blocks, zeros], dim=1)
    return torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=2)


class SlidingAttention(nn.Module):
    """Attention of a position with those at most W away, O(M W), with a learned bias for each distance.

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

    def forward(self, q: Tensor, k: Tensor, v: Tensor, place: Tensor, real: Tensor) -> Tensor:
        """q, k (B, M, Z), v (B, M, E), their places in the input and whether they are real (B, M) -> (B, M, E)."""
        length, size = q.shape[1], min(self.window, q.shape[1])
        extra = -length % size
        q, k, v = (F.pad(part, (0, 0, 0, extra)) for part in (q, k, v))
        place, real = F.pad(place, (0, extra)), F.pad(real, (0, extra))
        rank = torch.arange(length + extra, device=q.device)[None]
        k, v, seen = (neighbourhoods(part, size) for part in (k, v, real))  # (B, n, 3 W, ...)
        scores = q.unflatten(1, (-1, size)) @ k.mT  # (B, n, W, 3 W)

        def distance(x: Tensor) -> Tensor:
            return neighbourhoods(x, size)[:, :, None] - x.unflatten(1, (-1, size))[..., None]

        near = (distance(rank).abs() <= self.window) & seen[:, :, None]
        apart = distance(rank if self.distance == "compressed" else place)
        bias = self.bias[apart.clamp(-self.farthest, self.farthest) + self.farthest]
        if self.attention == "softmax":
            scores = scores / math.sqrt(q.shape[-1]) + bias
            # a finite floor: nobody reads a query without keys, but nan would spoil gradients
            weights = scores.masked_fill(~near, torch.finfo(scores.dtype).min).softmax(-1)
        else:
            weights = F.relu(scores / (2 * self.window) + bias).square() * near
        return (self.dropout(weights.to(v.dtype)) @ v).flatten(1, 2)[:, :length]


class Layer(nn.Module):
    """act(x + W m + p * GAU(selected m)), m the moving average and p the router's certainty; norm before or after."""

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
        certainty, choice = (self.router(averaged) / self.log_temperature.exp()).softmax(-1).max(-1)  # (B, L)
        active = (choice == 1) & mask
        h = self.activate(averaged, active) * certainty[..., None]
        x = F.silu(x + self.bypass(averaged) + h)
        return x if self.prenorm else self.norm(x, mask)

    def activate(self, averaged: Tensor, active: Tensor) -> Tensor:
        """The gated attention unit on active positions (B, L), zeros elsewhere: (B, L, D)."""
        count = active.sum(1, keepdim=True)
        # the cost follows the longest selection, which the host must know
        longest = max(1, int(count.max()))
        place = torch.sort((~active).to(torch.uint8), dim=1, stable=True).indices[:, :longest]  # (B, M)
        real = torch.arange(longest, device=place.device) < count
        chosen = averaged.take_along_dim(place[..., None], dim=1)  # (B, M, D)
        z, reset, v = F.silu(self.maps(chosen)).split(self.widths, dim=-1)
        q, k = (z[..., None, :] * self.scale + self.shift).unbind(-2)  # each (B, M, Z)
        h = self.dropout(self.out(self.attention(q, k, v, place, real) * reset)) * real[..., None]
        index = place[..., None].expand(-1, -1, h.shape[-1])
        return torch.zeros_like(averaged, dtype=h.dtype).scatter(1, index, h)


class SeqBoat(nn.Module):
    """The encoder.

    d_value, d_key  E and Z; by default 2 D and D / 2
    n_orders        of the moving average
    window          W
    attention, distance  of `SlidingAttention`
    temperature     of the router at the start, in sqrt(D)
    bidirectional, truncation  of the moving average
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
