"""Local attention: blocks of neighbouring positions, each attending to itself alone.

The baseline of Long Range Arena (Tay et al. 2021, arXiv:2011.04006), after the blocks of Image Transformer
(Parmar et al. 2018, arXiv:1802.05751). No overlap, so nothing ever leaves its block.
B batch, L length, D model width, N blocks of W positions, H heads, K width of a head; H * K = d_qkv.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class LocalAttention(nn.Module):
    """Softmax attention within blocks of `block` positions; the last block may be short: O(L W) time and memory.

    d_qkv    width of queries, keys and values together; None takes d_model
    dropout  probability of dropping an attention weight while training
    """

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
        super().__init__()
        d_qkv = d_model if d_qkv is None else d_qkv
        if d_qkv % n_heads:
            raise ValueError(f"d_qkv {d_qkv} is not a multiple of n_heads {n_heads}: choose heads that divide it")
        if block < 1:
            raise ValueError(f"block {block} is not positive: give the number of positions in a block")
        self.block = block
        self.n_heads = n_heads
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_qkv)
        self.out = nn.Linear(d_qkv, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        length = x.shape[1]
        missing = -length % self.block
        x = F.pad(x.masked_fill(~mask[..., None], 0), (0, 0, 0, missing))
        real = F.pad(mask, (0, missing)).unflatten(1, (-1, self.block)).flatten(0, 1)  # (B * N, W)
        # a block of padding alone may attend to it: a softmax over no keys is nan
        real = real | ~real.any(-1, keepdim=True)
        qkv = self.qkv(x).unflatten(1, (-1, self.block)).flatten(0, 1)
        q, k, v = qkv.unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)  # each (B * N, H, W, K)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None], dropout_p=dropout)
        y = y.transpose(1, 2).flatten(-2).view(len(x), length + missing, -1)
        return self.out(y[:, :length])  # (B, L, D)
