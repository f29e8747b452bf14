"""HGRN2: a gated linear recurrence whose state is an outer product, with forget gates that rise with depth.

Qin et al. 2024, "HGRN2: Gated Linear RNNs with State Expansion", arXiv:2404.07904; the lower bounds of the gates are
those of HGRN, arXiv:2311.04823. One softmax over the layers gives them, so this is an encoder and not a mixer.

B batch, L length, D model width, H heads, K width of a head (D = H * K), T chunk, n chunks.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import Dropout, Norm, require_causal
from lra.ops.precision import at_least_float32
from lra.ops.scan import scan

# A gate of at least e^-5 keeps the decay over a chunk above e^-80, inside float32's range.
CHUNK = 16
LEAST_GATE = 0.0068


def expanded_recurrence(
    q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, initial: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """o_t = S_t^T q_t, S_t = diag(f_t) S_(t-1) + k_t v_t^T, by chunks of matrix products: O(L (T + K)) per feature.

    q, k, v  (B, L, H, K)
    log_f    (B, L, H, K), in [log LEAST_GATE, 0]
    initial  S (B, H, K, K) before the first position; None: zero
    returns  (B, L, H, K), and S after the last position
    """
    length = q.shape[1]
    extra = -length % CHUNK
    q, k, v, log_f = (
        F.pad(part, (0, 0, 0, 0, 0, extra)).unflatten(1, (-1, CHUNK)).transpose(2, 3) for part in (q, k, v, log_f)
    )  # (B, n, H, T, K)
    total = log_f.cumsum(-2)
    decayed = q * total.exp()
    # within a chunk: position t reads s <= t through the decay exp(total_t - total_s)
    scores = (decayed @ (k * (-total).exp()).mT).tril()
    # between chunks: a recurrence over the contribution of each chunk to the state
    end = total[..., -1:, :]
    contribution = (k * (end - total).exp()).mT @ v  # (B, n, H, K, K)
    states = scan(end.mT.exp(), contribution, initial)
    initial = torch.zeros_like(states[:, 0]) if initial is None else initial
    before = torch.cat([initial[:, None], states[:, :-1]], dim=1)
    y = scores @ v + decayed @ before
    return y.transpose(2, 3).flatten(1, 2)[:, :length], states[:, -1]


class Recurrence(nn.Module):
    """One direction: forget gate f, input gate 1 - f, output gate q."""

    def __init__(self, d_model: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.maps = nn.Linear(d_model, 3 * d_model)

    def forward(self, x: Tensor, mask: Tensor, bound: Tensor) -> Tensor:
        """x (B, L, D), bound (D,) the least value of a forget gate -> (B, L, D)."""
        return self.continued(x, mask, bound, None)[0]

    def continued(self, x: Tensor, mask: Tensor, bound: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """From a state (B, H, K, K), and the state after the last real position of each row.

        Without a state the second result has no meaning for rows with padding.
        """
        v, q, f = self.maps(x).chunk(3, dim=-1)
        exact = torch.promote_types(x.dtype, torch.float32)
        f = bound + (1 - bound) * f.to(exact).sigmoid()
        # padding adds nothing to the state, so a direction that begins with padding starts from zero
        k = (1 - f) * mask[..., None]
        q, v = q.to(exact).sigmoid(), F.silu(v.to(exact))
        log_f = f.log() if state is None else f.log() * mask[..., None]  # padding leaves the state as it is
        with torch.autocast(x.device.type, enabled=False):
            q, k, v, log_f = (part.unflatten(-1, (-1, self.head_dim)) for part in (q, k, v, log_f))
            y, state = expanded_recurrence(q, k, v, log_f, state)
        return y.flatten(-2), state


class Block(nn.Module):
    """x + out(norm(recurrence(norm(x)))), then the gated linear unit x + down(silu(a) * b)."""

    def __init__(self, d_model: int, d_ff: int, *, head_dim: int, bidirectional: bool, norm: str, dropout: float):
        super().__init__()
        self.norm_mix, self.norm_glu = (Norm(norm, d_model, ragged=True) for _ in range(2))
        self.forwards = Recurrence(d_model, head_dim)
        self.backwards = Recurrence(d_model, head_dim) if bidirectional else None
        self.norm_state = nn.LayerNorm(d_model)
        self.out = nn.Linear(d_model, d_model)
        self.up = nn.Linear(d_model, 2 * d_ff)
        self.down = nn.Linear(d_ff, d_model)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, bound: Tensor) -> Tensor:
        h = self.norm_mix(x, mask).masked_fill(~mask[..., None], 0)
        y = self.forwards(h, mask, bound)
        if self.backwards is not None:
            y = y + self.backwards(h.flip(1), mask.flip(1), bound).flip(1)
        x = x + self.dropout(self.out(self.norm_state(y)))
        a, b = self.up(self.norm_glu(x, mask)).chunk(2, dim=-1)
        return x + self.dropout(self.down(F.silu(a) * b))

    def prefill(self, x: Tensor, mask: Tensor, bound: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h = self.norm_mix.by_position(x).masked_fill(~mask[..., None], 0)
        y, state = self.forwards.continued(h, mask, bound, state)
        x = x + self.out(self.norm_state(y))
        a, b = self.up(self.norm_glu.by_position(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(a) * b), state


class HGRN2(nn.Module):
    """HGRN2 encoder: pre-norm blocks and a last norm.

    head_dim       K, the expansion of the state ("expand_ratio" in the authors' code)
    d_ff           width of the gated linear unit; by default D
    bidirectional  add a second recurrence from the last real position backwards
    norm           of `lra.nn.blocks`

    The lower bound of a layer's forget gates is the sum of the shares of the layers before it; the first layer's bound,
    zero in the paper, is LEAST_GATE.
    """

    def __init__(
        self,
        *,
        d_model: int,
        n_layers: int,
        max_len: int,
        dropout: float,
        d_ff: int | None = None,
        head_dim: int = 8,
        bidirectional: bool = False,
        norm: str = "layer",
    ):
        super().__init__()
        if d_model % head_dim:
            raise ValueError(f"head_dim: {head_dim} does not divide d_model {d_model}")
        self.causal, self.state_shape = not bidirectional, (d_model // head_dim, head_dim, head_dim)
        self.shares = nn.Parameter(torch.ones(n_layers, d_model)) if n_layers > 1 else None
        self.blocks = nn.ModuleList(
            Block(d_model, d_ff or d_model, head_dim=head_dim, bidirectional=bidirectional, norm=norm, dropout=dropout)
            for _ in range(n_layers)
        )
        self.norm = Norm(norm, d_model, ragged=True)

    def bounds(self, x: Tensor) -> Tensor:
        """Lower bound of the forget gates of each layer and feature: (n_layers, D)."""
        if self.shares is None:
            return x.new_full((1, x.shape[-1]), LEAST_GATE)
        shares = self.shares.softmax(0)
        return (shares.cumsum(0) - shares).clamp(min=LEAST_GATE)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block, bound in zip(self.blocks, self.bounds(x), strict=True):
            x = block(x, mask, bound)
        return self.norm(x, mask)

    def default_state(self, batch: int) -> tuple[Tensor, ...]:
        """Zeros (B, H, K, K) for each layer."""
        weight = at_least_float32(next(self.parameters()))
        return tuple(weight.new_zeros(batch, *self.state_shape) for _ in self.blocks)

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One position: x (B, D), state -> y (B, D), next state."""
        y, state = self.prefill(x[:, None], x.new_ones(len(x), 1, dtype=torch.bool), state)
        return y[:, 0], state

    def prefill(
        self, x: Tensor, mask: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs (B, L, D) and the state after the last real position of each row.

        raises  RuntimeError for a two-sided encoder
        """
        require_causal(self, "bidirectional=False")
        states = []
        before = state or self.default_state(len(x))
        for block, bound, last in zip(cast(list[Block], list(self.blocks)), self.bounds(x), before, strict=True):
            x, after = block.prefill(x, mask, bound, last)
            states.append(after)
        return self.norm.by_position(x), tuple(states)
