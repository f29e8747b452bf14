"""Linear Transformer: attention with the softmax replaced by a product of positive features.

Katharopoulos et al. 2020, "Transformers are RNNs" (arXiv:2006.16236), section 3.2, non-causal.
B batch, L length, D model width, H heads, K width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.attention import MultiHeadAttention


def feature_map(x: Tensor) -> Tensor:
    """phi(x) = elu(x) + 1, positive everywhere (equation 7)."""
    return F.elu(x) + 1


class LinearAttention(MultiHeadAttention):
    """y_i = phi(q_i) S / phi(q_i) z with S = sum_j phi(k_j) v_j^T and z = sum_j phi(k_j) (equation 5): O(L)."""

    def __init__(self, d_model: int, max_len: int, *, n_heads: int = 4, d_qkv: int | None = None) -> None:
        super().__init__(d_model, n_heads, d_qkv)
        self.out = nn.Linear(self.d_qkv, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
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
