"""Linformer: keys and values projected from L positions to a constant number of them.

Wang et al. 2020 (arXiv:2006.04768), section 4, equation 7. The projection is a learned matrix over positions, so the
model has a maximum length, and all heads of a layer share it (headwise sharing).
B batch, L length, D model width, P projected positions, H heads, K width of a head.
"""

import torch
from torch import Tensor, nn

from lra.nn.attention import MultiHeadAttention


class Linformer(MultiHeadAttention):
    """softmax(Q (E K)^T / sqrt(K)) F V with E, F of shape (P, L): O(L P) time and memory.

    d_projected  P, the paper's k
    share_kv     E = F (key-value sharing)

    Padded keys and values enter the projection as zeros, so they change nothing. An input shorter than max_len uses
    only the first columns of E.
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
        super().__init__(d_model, n_heads, d_qkv, dropout)
        # a sum of L independent terms keeps its size
        self.project = nn.Parameter(torch.randn(1 if share_kv else 2, d_projected, max_len) / max_len**0.5)
        self.out = nn.Linear(self.d_qkv, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv_heads(x, mask)  # each (B, L, H, K)
        project, real = self.project[..., : x.shape[1]], mask[..., None, None]
        k = torch.einsum("pl,blhk->bhpk", project[0], k * real)
        v = torch.einsum("pl,blhk->bhpk", project[-1], v * real)
        y = self.attend(q.transpose(1, 2), k, v, None)
        return self.out(y.transpose(1, 2).flatten(-2))  # (B, L, D)
