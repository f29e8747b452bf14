"""Mamba: a diagonal state space whose step size, input map and output map depend on the input.

Gu and Dao 2023, arXiv:2312.00752, algorithm 2 (the selective scan, S6), figure 3 (the block), section 3.6 (values at
the start). The second direction is that of Zhu et al. 2024, "Vision Mamba", arXiv:2401.09417, algorithm 1.

B batch, L length, D model width, E = expand * D inner width, N state of a channel, R rank of the step size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lra.scan import scan

# States made at once. On a device they are bounded by memory: 2^26 numbers are 256 MiB in float32. On a processor 2^22
# is faster although each stretch is made twice: 1.6 s against 2.5 s a step at (B, L, E, N) = (32, 256, 128, 16).
MAX_STATES = {"cpu": 2**22, "cuda": 2**26}


def inverse_softplus(x: Tensor) -> Tensor:
    return x + torch.log(-torch.expm1(-x))


def states_to_output(h: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """One stretch of `selective_scan` from the state h (B, E, N); returns y (B, L, E) and the last state."""
    states = scan(torch.exp(dt[..., None] * A), (dt * u)[..., None] * B[:, :, None], h)  # (B, L, E, N)
    return torch.einsum("blen,bln->ble", states, C), states[:, -1]


def selective_scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, max_states: int | None = None) -> Tensor:
    """y_t = C_t h_t, h_t = exp(dt_t A) h_(t-1) + dt_t B_t u_t, channel by channel: algorithm 2 without D.

    u, dt       (B, L, E); input and positive step size
    A           (E, N), negative
    B, C        (B, L, N), shared by the channels
    max_states  states (B, L, E, N) beyond this number are made stretch by stretch, and again for the gradient; by
                default what MAX_STATES says for the device
    returns     (B, L, E)
    """
    length = u.shape[1]
    max_states = max_states or MAX_STATES.get(u.device.type, 2**26)
    stretch = max(16, max_states // (len(u) * A.numel()))
    h = u.new_zeros(len(u), *A.shape)
    if length <= stretch:
        return states_to_output(h, u, dt, A, B, C)[0]
    outputs = []
    for start in range(0, length, stretch):
        here = [part[:, start : start + stretch] for part in (u, dt, B, C)]
        y, h = checkpoint(states_to_output, h, here[0], here[1], A, here[2], here[3], use_reentrant=False)
        outputs.append(y)
    return torch.cat(outputs, dim=1)


class Direction(nn.Module):
    """Short causal convolution and selective state space along one direction, with their parameters."""

    def __init__(self, d_inner: int, *, d_state: int, d_conv: int, dt_rank: int, dt_min: float, dt_max: float):
        super().__init__()
        self.dt_rank, self.d_state = dt_rank, d_state
        self.conv = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.select = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt = nn.Linear(dt_rank, d_inner)
        self.log_A = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        nn.init.uniform_(self.dt.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        log_dt = torch.empty(d_inner).uniform_(math.log(dt_min), math.log(dt_max))
        with torch.no_grad():
            self.dt.bias.copy_(inverse_softplus(log_dt.exp()))
        self.optim = {"log_A": {"weight_decay": 0.0}, "D": {"weight_decay": 0.0}, "dt.bias": {"weight_decay": 0.0}}

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:
        u = F.silu(self.conv(u.transpose(1, 2))[..., : u.shape[1]].transpose(1, 2))
        # what enters the state is zero at the padding, so a direction that meets it first starts from zero
        u = u * mask[..., None]
        rank, B, C = self.select(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        exact = torch.promote_types(u.dtype, torch.float32)
        dt = F.softplus(self.dt(rank).to(exact))
        A = -torch.exp(self.log_A.to(exact))
        # small decays multiplied thousands of times: not in bf16
        with torch.autocast(u.device.type, enabled=False):
            y = selective_scan(u.to(exact), dt, A, B.to(exact), C.to(exact))
        return y.to(u.dtype) + self.D * u


class Mamba(nn.Module):
    """Gated block: out(silu(z) * SSM(conv(x))), forwards or in both directions.

    d_state        N, states of a channel
    expand         E / D
    d_conv         width of the short convolution
    dt_rank        R; by default D / 16, rounded up
    dt_min, dt_max bounds of the step sizes at the start
    bidirectional  adds a second direction with its own convolution and state space; both share the maps in and out
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

        self.into = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.forwards = direction()
        self.backwards = direction() if bidirectional else None
        self.out = nn.Linear(d_inner, d_model, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x.masked_fill(~mask[..., None], 0)
        u, z = self.into(x).chunk(2, dim=-1)  # each (B, L, E)
        y = self.forwards(u, mask)
        if self.backwards is not None:
            y = y + self.backwards(u.flip(1), mask.flip(1)).flip(1)
        return self.out(y * F.silu(z))
