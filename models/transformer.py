"""Full softmax attention, the reference every other mixer is compared with.

Vaswani et al. 2017, "Attention is all you need" (arXiv:1706.03762), section 3.2.
B batch, L length, D model width, H heads, K width of a head; H * K = d_qkv.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention (equations 1 and section 3.2.2), every position seeing every real position: O(L^2) time.

    d_qkv    width of queries, keys and values together; None takes d_model
    dropout  probability of dropping an attention weight while training

    Without dropout the fused kernels never store the (L, L) matrix. A padded key has weight exactly zero.
    """

    def __init__(
        self, d_model: int, max_len: int, *, n_heads: int = 4, d_qkv: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        d_qkv = d_model if d_qkv is None else d_qkv
        if d_qkv % n_heads:
            raise ValueError(f"d_qkv {d_qkv} is not a multiple of n_heads {n_heads}: choose heads that divide it")
        self.n_heads = n_heads
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_qkv)
        self.out = nn.Linear(d_qkv, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        # zero weight times an infinite value would still be nan, so whatever lies in the padding is cleared first
        x = x.masked_fill(~mask[..., None], 0)
        qkv = self.qkv(x).unflatten(-1, (3, self.n_heads, -1))  # (B, L, 3, H, K)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, L, K)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None], dropout_p=dropout)
        return self.out(y.transpose(1, 2).flatten(-2))  # (B, L, D)
