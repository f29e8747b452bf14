"""H3: a shift and a diagonal state space with products between them, which imitate the look-ups of attention.

Fu et al. 2022, "Hungry Hungry Hippos", arXiv:2212.14052, section 3, algorithm 1: y = Q * SSM_diag(SSM_shift(K) * V).

B batch, L length, D model width, G = D / P features of the diagonal state space, P width of a head, M conjugate pairs
of its state (half of N), K directions of a kernel.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.ssm import Recurrent, kernel_groups
from lra.ops.fftconv import long_conv
from lra.ops.hippo import log_steps
from lra.ops.padding import append
from lra.ops.precision import at_least_float32, exact
from lra.ops.ssm_kernels.dispatch import diagonal_kernel
from lra.ops.ssm_step import DiscreteSSM


class State(NamedTuple):
    """The last keys (B, taps - 1, D), and states (B, P * P, G, M) of the diagonal state space."""

    window: Tensor
    h: Tensor


class H3(Recurrent):
    """H3 layer; with P > 1 the product of keys and values is an outer product in heads, as in linear attention.

    d_state         N: taps of the shift state space, whose B is e_1, and exponentials of the diagonal one, which starts
                    as S4D-Lin (arXiv:2206.11893) with the bilinear rule
    head_dim        P; the state space runs on D * P sequences
    bidirectional   both state spaces also read from the right; the paper's layer is causal
    dt_min, dt_max  ends of the log-uniform initial steps
    lr              learning rate of the diagonal kernel's A and dt; None: the optimiser's
    backend         of lra.ops.ssm_kernels.dispatch
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        d_state: int = 64,
        head_dim: int = 1,
        bidirectional: bool = False,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        lr: float | None = 1e-3,
        backend: str = "auto",
    ):
        super().__init__()
        if d_model % head_dim:
            raise ValueError(f"head_dim: {head_dim} does not divide d_model {d_model}")
        features, pairs, directions = d_model // head_dim, (d_state + 1) // 2, 1 + bidirectional
        self.head_dim, self.max_len, self.backend, self.bidirectional = head_dim, max_len, backend, bidirectional
        self.maps = nn.Linear(d_model, 3 * d_model)
        # torch's initialisation of a convolution with d_state taps
        taps = torch.empty(directions, d_model, min(d_state, max_len)).uniform_(-1, 1) / math.sqrt(d_state)
        self.shift = nn.Parameter(taps)
        self.shift_D = nn.Parameter(torch.randn(d_model))
        self.log_dt = nn.Parameter(log_steps(features, dt_min, dt_max))
        self.A_log_decay = nn.Parameter(torch.full((features, pairs), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(pairs).repeat(features, 1))
        self.C = nn.Parameter(torch.view_as_real(torch.randn(directions, features, pairs, dtype=torch.cfloat)))
        self.D = nn.Parameter(torch.randn(features))
        self.out = nn.Linear(d_model, d_model)
        self.optim = kernel_groups(lr, dict.fromkeys(("log_dt", "A_log_decay", "A_imag"), "kernel"))

    def system(self) -> tuple[Tensor, Tensor, Tensor]:
        """dt (G,), A (G, M) and C (K, G, M) of the diagonal state space; its B is one, because C can absorb it."""
        log_dt, log_decay, imag, C = map(at_least_float32, (self.log_dt, self.A_log_decay, self.A_imag, self.C))
        return log_dt.exp(), torch.complex(-log_decay.exp(), imag), torch.view_as_complex(C)

    def kernel(self, length: int) -> Tensor:
        """First taps (K, G, L) of the diagonal state space."""
        dt, A, C = self.system()
        return diagonal_kernel(dt, A, torch.ones_like(A), C, length, discretization="bilinear", backend=self.backend)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Load weights for another max_len too: taps they lack are zero, those beyond the input are left out."""
        name, n_taps = prefix + "shift", self.shift.shape[-1]
        taps = state_dict.get(name)
        if taps is not None and (taps.shape[-1] < n_taps or n_taps == self.max_len):
            state_dict[name] = F.pad(taps, (0, n_taps - taps.shape[-1]))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            mask = x.new_ones(x.shape[:2], dtype=torch.bool)
        # the maps have a bias, which must not enter the convolutions at padded positions
        x = self.maps(x.masked_fill(~mask[..., None], 0)) * mask[..., None]
        q, k, v = x.mT.chunk(3, dim=1)  # each (B, D, L)
        k = long_conv(k, at_least_float32(self.shift), self.shift_D)
        q, k, v = (part.unflatten(1, (-1, self.head_dim)) for part in (q, k, v))  # each (B, G, P, L)
        # every pair of a key and a value feature is one sequence; keys are the first P
        kv = (k[:, :, :, None] * v[:, :, None]) * mask[:, None, None, None]  # (B, G, P, P, L)
        kv = kv.permute(0, 2, 3, 1, 4)
        y = long_conv(kv.flatten(0, 2), self.kernel(x.shape[1]), self.D).view_as(kv)
        y = torch.einsum("bpvgl,bgpl->bgvl", y, q)
        return self.out(y.flatten(1, 2).mT)

    def discretise(self) -> DiscreteSSM:
        """The bilinear rule."""
        dt, A, C = map(exact, self.system())
        dtA = dt[:, None] * A / 2
        return DiscreteSSM((1 + dtA) / (1 - dtA), dt[:, None] / (1 - dtA), C[0], self.D)

    def linear_system(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.discrete.diagonal()

    def zero_state(self, batch: int) -> State:
        C = self.system()[2]
        window = self.maps.weight.new_zeros(batch, self.shift.shape[-1] - 1, self.maps.in_features)
        return State(window, C.new_zeros(batch, self.head_dim**2, *C.shape[1:]))

    @torch.no_grad()
    def prefill(self, x: Tensor, mask: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Outputs (B, L, D) and the state after the last real position of each row, from a state; without gradient."""
        before = self.zero_state(len(x)) if state is None else state
        x = self.maps(x.masked_fill(~mask[..., None], 0)) * mask[..., None]
        q, k, v = x.chunk(3, dim=-1)
        joined, window = append(before.window, k, mask)
        k = long_conv(joined.mT, at_least_float32(self.shift), self.shift_D)[..., before.window.shape[1] :]
        k, v = (part.unflatten(1, (-1, self.head_dim)) for part in (k, v.mT))  # each (B, G, P, L)
        kv = torch.einsum("bgkl,bgvl,bl->bkvgl", k, v, mask.to(k.dtype)).flatten(0, 2)  # (B * P * P, G, L)
        y = long_conv(kv, self.kernel(x.shape[1]), self.D)
        rows = mask.repeat_interleave(self.head_dim**2, 0)
        y, h = self.carry(y, kv.mT, rows, None if state is None else before.h.flatten(0, 1))
        return self.read(q, y.unflatten(0, (len(x), -1))), State(window, h.unflatten(0, (len(x), -1)))

    def read(self, q: Tensor, y: Tensor) -> Tensor:
        """Outputs (B, L, D) of queries (B, L, D) and the states' outputs (B, P * P, G, L)."""
        q = q.unflatten(-1, (-1, self.head_dim))  # (B, L, G, P)
        y = y.unflatten(1, (self.head_dim, self.head_dim))
        return self.out(torch.einsum("bkvgl,blgk->blgv", y, q).flatten(-2))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One position: x (B, D), state -> y (B, D), next state."""
        q, k, v = self.maps(x).chunk(3, dim=-1)
        keys = torch.cat([state.window, k[:, None]], 1)
        taps = at_least_float32(self.shift)[0].flip(-1).mT.to(k.dtype)
        k = (keys * taps).sum(1) + self.shift_D * k
        k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in (k, v))  # (B, G, P)
        kv = torch.einsum("bgk,bgv->bkvg", k, v).flatten(0, 2)  # (B * P * P, G)
        y, h = self.discrete.step(kv, state.h.flatten(0, 1))
        y, h = (part.unflatten(0, (len(x), -1)) for part in (y[..., None], h))
        return self.read(q[:, None], y)[:, 0], State(keys[:, 1:], h)
