"""Linear Transformer: attention with the softmax replaced by a product of positive features.

Katharopoulos et al. 2020, "Transformers are RNNs" (arXiv:2006.16236), section 3.2, non-causal.
B batch, L length, D model width, H heads, K width of a head; H * K = d_qkv.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def feature_map(x: Tensor) -> Tensor:
    """phi(x) = elu(x) + 1, positive everywhere (equation 7)."""
    return F.elu(x) + 1


class LinearAttention(nn.Module):
    """y_i = phi(q_i) S / phi(q_i) z with S = sum_j phi(k_j) v_j^T and z = sum_j phi(k_j) (equation 5): O(L).

    d_qkv  width of queries, keys and values together; None takes d_model
    """

    def __init__(self, d_model: int, max_len: int, *, n_heads: int = 4, d_qkv: int | None = None) -> None:
        super().__init__()
        d_qkv = d_model if d_qkv is None else d_qkv
        if d_qkv % n_heads:
            raise ValueError(f"d_qkv {d_qkv} is not a multiple of n_heads {n_heads}: choose heads that divide it")
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_qkv)
        self.out = nn.Linear(d_qkv, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x.masked_fill(~mask[..., None], 0)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).unbind(2)  # each (B, L, H, K)
        # a padded key adds nothing to either sum
        q, k = feature_map(q), feature_map(k) * mask[..., None, None]
        # the mean in place of the sum, in both: the ratio is the same and half precision does not overflow
        k = k / mask.sum(1)[:, None, None, None]
        state = torch.einsum("blhk,blhv->bhkv", k, v)
        scale = torch.einsum("blhk,bhk->blh", q, k.sum(1))
        # exp underflows for very negative features; a query that matches no key gets zero, not nan
        y = torch.einsum("blhk,bhkv->blhv", q, state) / scale.clamp_min(1e-6)[..., None]
        return self.out(y.flatten(-2))  # (B, L, D)
