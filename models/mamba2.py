"""Mamba-2: a selective state space with one decay per head, computed as blocks of matrix products.

Dao and Gu 2024, arXiv:2405.21060, section 6 and listing 1 (the SSD algorithm), section 7 (the block).

B batch, L length, D model width, E = expand * D inner width, H heads, P width of a head (E = H * P), N state,
T chunk, n chunks.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import require_causal
from lra.ops.hippo import log_steps
from lra.ops.padding import append
from lra.ops.precision import at_least_float32, without_autocast
from lra.ops.scan import scan


def ssd(
    x: Tensor, log_a: Tensor, B: Tensor, C: Tensor, *, chunk: int, initial: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y_t = C_t h_t, h_t = a_t h_(t-1) + B_t x_t^T, for each head a matrix state h (N, P).

    x        (B, L, H, P)
    log_a    (B, L, H), at most 0
    B, C     (B, L, N), shared by the heads
    chunk    T: positions within a chunk meet in a (T, T) matrix, chunks through their states; O(L (T + N))
    initial  h (B, H, N, P) before the first position; None: zero
    returns  (B, L, H, P), and h after the last position
    """
    length = x.shape[1]
    extra = -length % chunk
    x, log_a = F.pad(x, (0, 0, 0, 0, 0, extra)), F.pad(log_a, (0, 0, 0, extra))
    B, C = F.pad(B, (0, 0, 0, extra)), F.pad(C, (0, 0, 0, extra))
    x, log_a, B, C = (part.unflatten(1, (-1, chunk)) for part in (x, log_a, B, C))  # (B, n, T, ...)
    total = log_a.cumsum(2).transpose(2, 3)  # (B, n, H, T): log of the decay since the chunk began
    # within a chunk: position t reads s <= t, weighted by the decay between them
    later = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    between = (total[..., :, None] - total[..., None, :]).masked_fill(later, -math.inf)  # (B, n, H, T, T)
    scores = torch.einsum("bntk,bnsk->bnts", C, B)[:, :, None] * between.exp()
    y = torch.einsum("bnhts,bnshp->bnthp", scores, x)
    # between chunks: a recurrence over the contribution of each chunk to the state
    to_end = (total[..., -1:] - total).exp()  # (B, n, H, T)
    contribution = torch.einsum("bnht,bntk,bnthp->bnhkp", to_end, B, x)
    states = scan(total[..., -1].exp()[..., None, None], contribution, initial)  # (B, n, H, N, P), after each chunk
    initial = torch.zeros_like(states[:, 0]) if initial is None else initial
    before = torch.cat([initial[:, None], states[:, :-1]], dim=1)
    y = y + torch.einsum("bntk,bnhkp,bnht->bnthp", C, before, total.exp())
    return y.flatten(1, 2)[:, :length], states[:, -1]


class State(NamedTuple):
    """The last d_conv - 1 inputs of the short convolution, and the state h (B, H, N, P)."""

    window: Tensor
    h: Tensor


class Direction(nn.Module):
    """Short causal convolution of [x, B, C], and the state space, of one direction."""

    def __init__(
        self, n_heads: int, head_dim: int, *, d_state: int, d_conv: int, dt_min: float, dt_max: float, chunk: int
    ):
        super().__init__()
        self.n_heads, self.d_inner, self.d_state, self.chunk = n_heads, n_heads * head_dim, d_state, chunk
        width = self.d_inner + 2 * d_state
        self.conv = nn.Conv1d(width, width, d_conv, groups=width, padding=d_conv - 1)
        dt = log_steps(n_heads, dt_min, dt_max).exp()
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # softplus gives dt back
        self.log_A = nn.Parameter(torch.empty(n_heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(n_heads))
        self.optim = {name: {"weight_decay": 0.0} for name in ("dt_bias", "log_A", "D")}

    def forward(self, xBC: Tensor, dt: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, E + 2 N), (B, L, H) -> (B, L, E)."""
        # contiguous with positions first: the rest is a tenth faster than on a transposed view
        xBC = F.silu(self.conv(xBC.transpose(1, 2))[..., : xBC.shape[1]].transpose(1, 2).contiguous())
        return self.recurrence(xBC, dt, mask, None)[0]

    def prefill(self, xBC: Tensor, dt: Tensor, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """`forward` from a state, and the state after the last real position of each row."""
        joined, window = append(state.window, xBC, mask)
        xBC = F.silu(F.conv1d(joined.mT, self.conv.weight, self.conv.bias, groups=xBC.shape[-1])).mT
        y, h = self.recurrence(xBC, dt, mask, state.h)
        return y, State(window, h)

    def recurrence(self, xBC: Tensor, dt: Tensor, mask: Tensor | None, h: Tensor | None) -> tuple[Tensor, Tensor]:
        """The state space from a state, and the state after the last real position of each row.

        Without a state the second result has no meaning for rows with padding.
        """
        # padding adds nothing to the state, so a direction that begins with padding starts from zero
        exact = torch.promote_types(xBC.dtype, torch.float32)
        xBC = (xBC if mask is None else xBC * mask[..., None]).to(exact)
        x, B, C = xBC.split([self.d_inner, self.d_state, self.d_state], dim=-1)
        x = x.unflatten(-1, (self.n_heads, -1))  # (B, L, H, P)
        dt = F.softplus(dt.to(exact) + self.dt_bias)
        if h is not None and mask is not None:
            dt = dt * mask[..., None]  # a step of zero leaves the state as it is
        # thousands of decays near one are multiplied: too inexact in bf16
        with without_autocast(x.device):
            chunk = min(self.chunk, x.shape[1]) if h is not None else self.chunk
            y, h = ssd(x * dt[..., None], -dt * self.log_A.exp(), B, C, chunk=chunk, initial=h)
        return (y + self.D[:, None] * x).flatten(-2), h


class Mamba2(nn.Module):
    """Block of figure 6: out(norm(silu(z) * SSD(conv(x, B, C)))), forwards or in both directions.

    d_state        N; one group: all heads share B and C
    head_dim       P, at most E
    expand         E / D
    d_conv         width of the short convolution
    dt_min, dt_max bounds of the initial step sizes
    chunk          T, changes the cost and not the result
    bidirectional  adds a second direction with its own convolution, decays and step biases; both share the input and
                   output maps, as in Zhu et al. 2024, arXiv:2401.09417
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        d_state: int = 64,
        head_dim: int = 64,
        expand: int = 2,
        d_conv: int = 4,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        chunk: int = 64,
        bidirectional: bool = False,
    ):
        super().__init__()
        d_inner = expand * d_model
        head_dim = min(head_dim, d_inner)
        if d_inner % head_dim:
            raise ValueError(f"head_dim: {head_dim} does not divide expand * d_model = {d_inner}")
        n_heads = d_inner // head_dim

        def direction() -> Direction:
            return Direction(
                n_heads, head_dim, d_state=d_state, d_conv=d_conv, dt_min=dt_min, dt_max=dt_max, chunk=chunk
            )

        self.widths = [d_inner, d_inner + 2 * d_state, n_heads]
        self.causal = not bidirectional
        self.into = nn.Linear(d_model, sum(self.widths), bias=False)
        self.forwards = direction()
        self.backwards = direction() if bidirectional else None
        self.norm = nn.RMSNorm(d_inner, eps=1e-5)
        self.out = nn.Linear(d_inner, d_model, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        z, xBC, dt = self.into(x).split(self.widths, dim=-1)
        y = self.forwards(xBC, dt, mask)
        if self.backwards is not None:
            y = y + self.backwards(xBC.flip(1), dt.flip(1), None if mask is None else mask.flip(1)).flip(1)
        return self.gated(y, z)

    def gated(self, y: Tensor, z: Tensor) -> Tensor:
        weight = at_least_float32(self.norm.weight)
        y = F.rms_norm(y * F.silu(z), weight.shape, weight, self.norm.eps)
        return self.out(y.to(z.dtype))

    def default_state(self, batch: int) -> State:
        layer, A = self.forwards, at_least_float32(self.forwards.log_A)
        window = layer.conv.weight.new_zeros(batch, layer.conv.kernel_size[0] - 1, layer.conv.in_channels)
        return State(window, A.new_zeros(batch, layer.n_heads, layer.d_state, layer.d_inner // layer.n_heads))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One position: x (B, D), state -> y (B, D), next state."""
        y, state = self.prefill(x[:, None], x.new_ones(len(x), 1, dtype=torch.bool), state)
        return y[:, 0], state

    def prefill(self, x: Tensor, mask: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Outputs (B, L, D) and the state after the last real position of each row.

        raises  RuntimeError for a two-sided layer
        """
        require_causal(self, "bidirectional=False")
        z, xBC, dt = self.into(x.masked_fill(~mask[..., None], 0)).split(self.widths, dim=-1)
        y, state = self.forwards.prefill(xBC, dt, mask, state or self.default_state(len(x)))
        return self.gated(y, z), state
