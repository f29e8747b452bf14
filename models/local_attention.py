"""Local attention: each block of neighbouring positions attends only to itself.

A baseline of Long Range Arena (Tay et al. 2021, arXiv:2011.04006), after the blocks of Image Transformer
(Parmar et al. 2018, arXiv:1802.05751). Blocks do not overlap, so no information crosses their borders.
B batch, L length, D model width, N blocks of W positions, H heads, K width of a head.
"""

from torch import Tensor, nn

from lra.nn.attention import MultiHeadAttention


class LocalAttention(MultiHeadAttention):
    """Softmax attention within blocks of `block` (W) positions; the last block may be short: O(L W) time and memory."""

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        block: int = 50,
        n_heads: int = 4,
        d_qkv: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model, n_heads, d_qkv, dropout)
        self.block = block
        self.out = nn.Linear(self.d_qkv, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v, real = self.qkv_blocks(x, mask, self.block)  # each (B, N, W, H, K)
        y = self.attend_blocks(q, k, v, real[:, :, None])
        return self.out(y.flatten(1, 2).flatten(-2)[:, : x.shape[1]])  # (B, L, D)
