"""Linformer: keys and values projected from L positions to a constant number of them.

Wang et al. 2020 (arXiv:2006.04768), section 4, equation 7. The projection is a learned matrix over positions, so the
model has a longest length, and one projection serves all heads of a layer (headwise sharing).
B batch, L length, D model width, P projected positions, H heads, K width of a head; H * K = d_qkv.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linformer(nn.Module):
    """softmax(Q (E K)^T / sqrt(K)) F V with E, F of shape (P, L): O(L P) time and memory.

    d_projected  P, the paper's k
    share_kv     E = F (key-value sharing)
    d_qkv        width of queries, keys and values together; None takes d_model
    dropout      probability of dropping an attention weight while training

    Padded keys and values enter the projection as zeros, so they change nothing. An input shorter than max_len meets
    the first columns of E only.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        d_projected: int = 16,
        share_kv: bool = True,
        n_heads: int = 4,
        d_qkv: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        d_qkv = d_model if d_qkv is None else d_qkv
        if d_qkv % n_heads:
            raise ValueError(f"d_qkv {d_qkv} is not a multiple of n_heads {n_heads}: choose heads that divide it")
        self.max_len = max_len
        self.n_heads = n_heads
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_qkv)
        # a sum of L independent terms keeps its size
        self.project = nn.Parameter(torch.randn(1 if share_kv else 2, d_projected, max_len) / max_len**0.5)
        self.out = nn.Linear(d_qkv, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        length = x.shape[1]
        if length > self.max_len:
            raise ValueError(f"input has {length} positions, the projection was built for max_len {self.max_len}")
        x = x.masked_fill(~mask[..., None], 0)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).unbind(2)  # each (B, L, H, K)
        real = mask[..., None, None]
        k = torch.einsum("pl,blhk->bhpk", self.project[0, :, :length], k * real)
        v = torch.einsum("pl,blhk->bhpk", self.project[-1, :, :length], v * real)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, dropout_p=dropout)
        return self.out(y.transpose(1, 2).flatten(-2))  # (B, L, D)
