"""Mamba: a diagonal state space whose step size, input map and output map depend on the input.

Gu and Dao 2023, arXiv:2312.00752, algorithm 2 (the selective scan, S6), figure 3 (the block), section 3.6
(initialisation). The second direction is that of Zhu et al. 2024, "Vision Mamba", arXiv:2401.09417, algorithm 1.

B batch, L length, D model width, E = expand * D inner width, N state of a channel, R rank of the step size.
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
from lra.ops.selective_scan import scan_in_chunks, selective_scan


class State(NamedTuple):
    """The last d_conv - 1 inputs (B, d_conv - 1, E) of the short convolution, and the state (B, E, N)."""

    window: Tensor
    h: Tensor


class Direction(nn.Module):
    """Short causal convolution and selective state space of one direction."""

    def __init__(self, d_inner: int, *, d_state: int, d_conv: int, dt_rank: int, dt_min: float, dt_max: float):
        super().__init__()
        self.dt_rank, self.d_state = dt_rank, d_state
        self.conv = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.select = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt = nn.Linear(dt_rank, d_inner)
        self.log_A = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        nn.init.uniform_(self.dt.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        dt = log_steps(d_inner, dt_min, dt_max).exp()
        with torch.no_grad():
            self.dt.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        self.optim = {name: {"weight_decay": 0.0} for name in ("log_A", "D", "dt.bias")}

    def forward(self, u: Tensor, mask: Tensor | None) -> Tensor:
        u = F.silu(self.conv(u.transpose(1, 2))[..., : u.shape[1]].transpose(1, 2))
        # padding adds nothing to the state, so a direction that begins with padding starts from zero
        if mask is not None:
            u = u * mask[..., None]
        rank, B, C = self.select(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        exact = torch.promote_types(u.dtype, torch.float32)
        dt = F.softplus(self.dt(rank).to(exact))
        A = -torch.exp(self.log_A.to(exact))
        # thousands of decays near one are multiplied: too inexact in bf16
        with without_autocast(u.device):
            y = selective_scan(u.to(exact), dt, A, B.to(exact), C.to(exact))
        return y.to(u.dtype) + self.D * u

    def prefill(self, u: Tensor, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """`forward` from a state, and the state after the last real position of each row."""
        joined, window = append(state.window, u, mask)
        u = F.silu(F.conv1d(joined.mT, self.conv.weight, self.conv.bias, groups=u.shape[-1])).mT * mask[..., None]
        rank, B, C = self.select(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        exact = torch.promote_types(u.dtype, torch.float32)
        # a step of zero leaves the state as it is
        dt = F.softplus(self.dt(rank).to(exact)) * mask[..., None]
        with without_autocast(u.device):
            y, h = scan_in_chunks(state.h, u.to(exact), dt, -torch.exp(self.log_A.to(exact)), B.to(exact), C.to(exact))
        return y.to(u.dtype) + self.D * u, State(window, h)


class Mamba(nn.Module):
    """Gated block out(silu(z) * SSM(conv(x))), forwards or in both directions.

    d_state        N, states of a channel
    expand         E / D
    d_conv         width of the short convolution
    dt_rank        R; by default D / 16, rounded up
    dt_min, dt_max bounds of the initial step sizes
    bidirectional  adds a second direction with its own convolution and state space; they share the maps in and out
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        d_state: int = 16,
        expand: int = 2,
        d_conv: int = 4,
        dt_rank: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        bidirectional: bool = False,
    ):
        super().__init__()
        d_inner = expand * d_model

        def direction() -> Direction:
            rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
            return Direction(d_inner, d_state=d_state, d_conv=d_conv, dt_rank=rank, dt_min=dt_min, dt_max=dt_max)

        self.causal = not bidirectional
        self.into = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.forwards = direction()
        self.backwards = direction() if bidirectional else None
        self.out = nn.Linear(d_inner, d_model, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        u, z = self.into(x).chunk(2, dim=-1)  # each (B, L, E)
        y = self.forwards(u, mask)
        if self.backwards is not None:
            y = y + self.backwards(u.flip(1), None if mask is None else mask.flip(1)).flip(1)
        return self.out(y * F.silu(z))

    def default_state(self, batch: int) -> State:
        A, conv = at_least_float32(self.forwards.log_A), self.forwards.conv
        window = conv.weight.new_zeros(batch, conv.kernel_size[0] - 1, conv.in_channels)
        return State(window, A.new_zeros(batch, *A.shape))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One position: x (B, D), state -> y (B, D), next state."""
        y, state = self.prefill(x[:, None], x.new_ones(len(x), 1, dtype=torch.bool), state)
        return y[:, 0], state

    def prefill(self, x: Tensor, mask: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Outputs (B, L, D) and the state after the last real position of each row.

        raises  RuntimeError for a two-sided layer
        """
        require_causal(self, "bidirectional=False")
        u, z = self.into(x.masked_fill(~mask[..., None], 0)).chunk(2, dim=-1)
        y, state = self.forwards.prefill(u, mask, state or self.default_state(len(x)))
        return self.out(y * F.silu(z)), state
