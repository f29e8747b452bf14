"""Linear Transformer: attention with the softmax replaced by a product of positive features.

Katharopoulos et al. 2020, "Transformers are RNNs" (arXiv:2006.16236), section 3.2; causal: section 3.3.
B batch, L length, D model width, H heads, K width of a head, T chunk, n chunks.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.attention import MultiHeadAttention
from lra.nn.blocks import require_causal
from lra.ops.precision import at_least_float32, without_autocast

CHUNK = 64  # T


def feature_map(x: Tensor) -> Tensor:
    """phi(x) = elu(x) + 1, positive everywhere (equation 7)."""
    return F.elu(x) + 1


class Sums(NamedTuple):
    """The state of the recurrence: S = sum_j phi(k_j) v_j^T (B, H, K, K) and z = sum_j phi(k_j) (B, H, K)."""

    S: Tensor
    z: Tensor


def causal_attention(q: Tensor, k: Tensor, v: Tensor, before: Sums) -> tuple[Tensor, Sums]:
    """y_i = q_i S_i / q_i z_i with the sums over j <= i, from those before the first position (equations 18 to 20).

    q, k     features (B, L, H, K), positive; a zero key counts as no position
    v        (B, L, H, K)
    returns  (B, L, H, K), and the sums after the last position; O(L (T + K)) per feature, by chunks of T positions
    """
    length = q.shape[1]
    q, k, v = (F.pad(part, (0, 0, 0, 0, 0, -length % CHUNK)).unflatten(1, (-1, CHUNK)) for part in (q, k, v))
    # within a chunk
    scores = torch.einsum("bnthk,bnshk->bnhts", q, k).tril()
    y, scale = torch.einsum("bnhts,bnshv->bnthv", scores, v), scores.sum(-1).mT
    # from earlier chunks
    S = torch.cat([before.S[:, None], torch.einsum("bnshk,bnshv->bnhkv", k, v)], 1).cumsum(1)  # (B, n + 1, H, K, K)
    z = torch.cat([before.z[:, None], k.sum(2)], 1).cumsum(1)
    y = y + torch.einsum("bnthk,bnhkv->bnthv", q, S[:, :-1])
    scale = scale + torch.einsum("bnthk,bnhk->bnth", q, z[:, :-1])
    # exp underflows for very negative features; a query that matches no key gets zero, not nan
    y = y / scale.clamp_min(1e-6)[..., None]
    return y.flatten(1, 2)[:, :length], Sums(S[:, -1], z[:, -1])


class LinearAttention(MultiHeadAttention):
    """y_i = phi(q_i) S / phi(q_i) z with S = sum_j phi(k_j) v_j^T and z = sum_j phi(k_j) (equation 5): O(L).

    causal  the sums are over the positions up to i, at least in float32
    """

    def __init__(
        self, d_model: int, max_len: int, *, n_heads: int = 4, d_qkv: int | None = None, causal: bool = False
    ) -> None:
        super().__init__(d_model, n_heads, d_qkv)
        self.causal = causal
        self.out = nn.Linear(self.d_qkv, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.causal:
            return self.prefill(x, mask)[0]
        q, k, v = self.qkv_heads(x, mask)
        # a padded key adds nothing to either sum
        q, k = feature_map(q), feature_map(k) * mask[..., None, None]
        # means instead of sums keep half precision from overflowing; the ratio of the two is the same
        k = k / mask.sum(1)[:, None, None, None]
        state = torch.einsum("blhk,blhv->bhkv", k, v)
        scale = torch.einsum("blhk,bhk->blh", q, k.sum(1))
        # exp underflows for very negative features; a query that matches no key gets zero, not nan
        y = torch.einsum("blhk,bhkv->blhv", q, state) / scale.clamp_min(1e-6)[..., None]
        return self.out(y.flatten(-2))  # (B, L, D)

    def default_state(self, batch: int) -> Sums:
        """Sums over no positions: zero."""
        z = at_least_float32(self.qkv.weight).new_zeros(batch, self.n_heads, self.d_qkv // self.n_heads)
        return Sums(z.new_zeros(*z.shape, z.shape[-1]), z)

    def step(self, x: Tensor, state: Sums) -> tuple[Tensor, Sums]:
        """One position, O(1): x (B, D) -> y (B, D) and the next state."""
        q, k, v = (at_least_float32(part)[:, 0] for part in self.qkv_heads(x[:, None], x.new_ones(len(x), 1).bool()))
        q, k = feature_map(q), feature_map(k)  # (B, H, K)
        state = Sums(state.S + k[..., None] * v[..., None, :], state.z + k)
        y = (q[..., None, :] @ state.S).squeeze(-2) / (q * state.z).sum(-1, keepdim=True).clamp_min(1e-6)
        return self.out(y.to(x.dtype).flatten(-2)), state

    def prefill(self, x: Tensor, mask: Tensor, state: Sums | None = None) -> tuple[Tensor, Sums]:
        """Outputs (B, L, D) and the sums over the real positions.

        raises  RuntimeError for two-sided attention
        """
        require_causal(self, "causal=True")
        q, k, v = self.qkv_heads(x, mask)
        with without_autocast(x.device):
            q, k, v = map(at_least_float32, (q, k, v))
            k = feature_map(k) * mask[..., None, None]
            y, state = causal_attention(feature_map(q), k, v, state or self.default_state(len(x)))
        return self.out(y.to(x.dtype).flatten(-2)), state
