"""MEGA: single-head gated attention over an exponential moving average, full or in chunks.

Ma et al. 2022, "Mega: Moving Average Equipped Gated Attention", arXiv:2209.10655. Its gate mixes the layer's input
before the norm with the output, so this is an encoder and not a mixer.

B batch, L length, D model width, E width of the values, Z width of queries and keys, N orders of the moving average,
K directions, W chunk, n chunks.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import Dropout, FeedForward, Norm, Residual
from lra.ops.fftconv import long_conv


def power_sums(c: Tensor, log_q: Tensor, length: int) -> Tensor:
    """sum_n c_n q_n^l for l = 0 ... length - 1, real or complex: (..., N), (..., N) -> (..., length).

    l = i T + j splits the powers into two tables whose product is a matrix product: no (..., N, length) tensor.
    """
    size = math.ceil(math.sqrt(length))
    step = torch.arange(size, device=c.device, dtype=c.real.dtype)
    fine = torch.exp(log_q[..., None] * step)  # (..., N, T)
    coarse = c[..., None, :] * torch.exp(log_q[..., None, :] * (step * size)[:, None])  # (..., T, N)
    return (coarse @ fine).flatten(-2)[..., :length]


def average_taps(c: Tensor, log_q: Tensor, length: int) -> Tensor:
    """power_sums, where the second direction starts at l = 1 and ends with a zero, so that both reach equally far."""
    if len(c) == 1:
        return power_sums(c, log_q, length)
    taps = power_sums(torch.stack([c[0], c[1] * log_q[1].exp()]), log_q, length)
    taps[1, :, -1] = 0
    return taps


class MovingAverage(nn.Module):
    """Multi-dimensional damped exponential moving average, section 3.1, and silu(EMA(x) + omega x).

    Each feature has N averages h_t = (1 - alpha delta) h_(t-1) + alpha beta x_t and the result gamma . h_t / sqrt(N).
    As in the authors' code both directions include the position itself.
    """

    def __init__(self, d_model: int, *, n_orders: int, bidirectional: bool, truncation: int | None):
        super().__init__()
        self.truncation = truncation
        shape = (1 + bidirectional, d_model, n_orders)
        self.alpha = nn.Parameter(0.2 * torch.randn(shape))
        self.delta = nn.Parameter(0.2 * torch.randn(shape))
        signs = 1.0 - 2.0 * (torch.arange(n_orders) % 2)
        self.beta = nn.Parameter(signs + 0.02 * torch.randn(shape))
        self.gamma = nn.Parameter(torch.randn(shape))
        self.omega = nn.Parameter(torch.randn(d_model))

    def kernel(self, length: int) -> Tensor:
        """(K, D, length), the second direction from one position away."""
        return average_taps(*self.coefficients(), length)

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """c and log q, both (K, D, N): tap l of the average is sum_n c_n q_n^l."""
        alpha = self.alpha.sigmoid()
        log_q = torch.log1p(-alpha * self.delta.sigmoid())
        return alpha * self.beta * self.gamma / math.sqrt(log_q.shape[-1]), log_q

    def forward(self, x: Tensor) -> Tensor:
        length = min(x.shape[1], self.truncation or x.shape[1])
        with torch.autocast(x.device.type, enabled=False):
            c, log_q = self.coefficients()
            # weight of the position itself: omega and the first tap of the second direction
            skip = self.omega + c[1:].sum((0, -1))
            kernel = average_taps(c, log_q, length)
        return F.silu(long_conv(x.mT, kernel, skip).mT)


def laplace(x: Tensor) -> Tensor:
    """Laplace attention function: a smooth squared ReLU, the distribution function of N(sqrt(1/2), 1/(4 pi))."""
    return 0.5 * (1 + torch.erf((x - math.sqrt(0.5)) * math.sqrt(2 * math.pi)))


class GatedAttention(nn.Module):
    """Attention with queries and keys from the moving average, a reset gate and an update gate (section 3.2).

    chunk      W: attention within blocks of W positions, O(L W); None: over all positions, O(L^2)
    attention  "softmax", or "laplace" of scores divided by the number of real keys
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        average: MovingAverage,
        norm: Norm,
        prenorm: bool,
        d_value: int,
        d_key: int,
        chunk: int | None,
        attention: str,
        dropout: float,
        attention_dropout: float,
    ):
        super().__init__()
        if attention not in ("softmax", "laplace"):
            raise ValueError(f"attention: {attention!r} is not one of softmax, laplace")
        self.chunk, self.attention, self.prenorm = chunk, attention, prenorm
        self.widths = [d_model, d_key, d_value, d_model]
        self.average, self.norm = average, norm
        self.value = nn.Linear(d_model, d_value)
        self.maps = nn.Linear(d_model, sum(self.widths))
        self.out = nn.Linear(d_value, d_model)
        self.scale = nn.Parameter(0.02 * torch.randn(2, d_key))
        self.shift = nn.Parameter(torch.zeros(2, d_key))
        self.span = max_len if chunk is None else min(chunk, max_len)
        self.bias = nn.Parameter(0.02 * torch.randn(2 * self.span - 1))
        self.dropout = Dropout(dropout)
        self.attention_dropout = Dropout(attention_dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.norm(x, mask) if self.prenorm else x
        y = y.masked_fill(~mask[..., None], 0)
        averaged = self.dropout(self.average(y))
        update, z, reset, bypass = self.maps(averaged).split(self.widths, dim=-1)
        q, k = (F.silu(z)[..., None, :] * self.scale + self.shift).unbind(-2)  # each (B, L, Z)
        y = self.attend(q, k, F.silu(self.value(y)), mask)
        y = self.dropout(F.silu(bypass + self.out(y * F.silu(reset))))
        x = x + update.sigmoid() * (y - x)
        return x if self.prenorm else self.norm(x, mask)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """q, k (B, L, Z), v (B, L, E) -> (B, L, E)."""
        length = q.shape[1]
        size = length if self.chunk is None else min(self.chunk, length)
        extra = -length % size
        q, k, v = (F.pad(part, (0, 0, 0, extra)).unflatten(1, (-1, size)) for part in (q, k, v))  # (B, n, W, ...)
        real = F.pad(mask, (0, extra)).unflatten(1, (-1, 1, size))  # (B, n, 1, W)
        position = torch.arange(size, device=q.device)
        bias = self.bias[self.span - 1 + position - position[:, None]]
        scores = q @ k.mT
        if self.attention == "softmax":
            scores = scores / math.sqrt(q.shape[-1]) + bias
            # finite: chunks of padding are unused, but nan would spoil gradients
            weights = scores.masked_fill(~real, torch.finfo(scores.dtype).min).softmax(-1)
        else:
            weights = laplace(scores / real.sum(-1, keepdim=True).clamp(min=1) + bias) * real
        return (self.attention_dropout(weights.to(v.dtype)) @ v).flatten(1, 2)[:, :length]


class Mega(nn.Module):
    """MEGA encoder: gated attention and a feed-forward network, n_layers times.

    d_value, d_key  E and Z; by default 2 D and D / 2
    d_ff            width of the feed-forward network; by default 2 D
    n_orders        N
    chunk           length of a chunk ("Mega-chunk"), None for full attention
    attention       "softmax" for text, "laplace" for images
    bidirectional   the average also runs from the right
    truncation      longest reach of the average; None: the whole input
    norm, prenorm   of `lra.nn.blocks`; "rms" is nearest to the scale norm of the authors' Text and Retrieval runs
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
        n_orders: int = 16,
        chunk: int | None = None,
        attention: str = "softmax",
        bidirectional: bool = True,
        truncation: int | None = None,
        attention_dropout: float = 0.0,
        norm: str = "layer",
        prenorm: bool = False,
    ):
        super().__init__()

        def make_norm() -> Norm:
            return Norm(norm, d_model, ragged=True)

        self.blocks = nn.ModuleList()
        for _ in range(n_layers):
            average = MovingAverage(d_model, n_orders=n_orders, bidirectional=bidirectional, truncation=truncation)
            attend = GatedAttention(
                d_model,
                max_len,
                average=average,
                norm=make_norm(),
                prenorm=prenorm,
                d_value=d_value or 2 * d_model,
                d_key=d_key or d_model // 2,
                chunk=chunk,
                attention=attention,
                dropout=dropout,
                attention_dropout=attention_dropout,
            )
            feed = FeedForward(d_model, d_ff or 2 * d_model, activation="silu", dropout=0.0, tie_dropout=False)
            for layer in (*attend.children(), *feed.children()):
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.02)
                    nn.init.zeros_(layer.bias)
            self.blocks.append(attend)
            self.blocks.append(Residual(feed, make_norm(), Dropout(dropout), prenorm=prenorm, takes_mask=False))
        self.norm = make_norm() if prenorm else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return x if self.norm is None else self.norm(x, mask)
