"""Full softmax attention, the reference for every other mixer.

Vaswani et al. 2017, "Attention is all you need" (arXiv:1706.03762), section 3.2.
B batch, L length, D model width, H heads, K width of a head.
"""

import torch
from torch import Tensor, nn

from lra.nn.attention import CachedAttention
from lra.nn.blocks import checked_reach


class Attention(CachedAttention):
    """Multi-head attention (equation 1, section 3.2.2) of every position to every real position: O(L^2) time.

    Without dropout the fused kernels never store the (L, L) matrix. A padded key has weight exactly zero.

    causal  a position attends to itself and earlier ones; steps use a cache of keys and values for max_len positions
    reach   only positions less than `reach` away are attended to, for analyses; None: all
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        n_heads: int = 4,
        d_qkv: int | None = None,
        dropout: float = 0.0,
        causal: bool = False,
        reach: int | None = None,
    ) -> None:
        super().__init__(d_model, max_len, n_heads, d_qkv, dropout, causal)
        self.reach = checked_reach(reach)
        self.out = nn.Linear(self.d_qkv, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in self.qkv_heads(x, mask))  # each (B, H, L, K)
        if self.reach is not None:
            y = self.attend(q, k, v, self.near(mask, self.reach))
        else:
            y = self.attend_causally(q, k, v) if self.causal else self.attend(q, k, v, mask[:, None, None])
        return self.out(y.transpose(1, 2).flatten(-2))  # (B, L, D)

    def near(self, mask: Tensor, reach: int) -> Tensor:
        """Which keys a position attends to: mask (B, L) -> (B, 1, L, L). Padding attends to itself alone."""
        place = torch.arange(mask.shape[1], device=mask.device)
        away = place[:, None] - place
        near = (away < reach) & (away > (-1 if self.causal else -reach))
        return (near & mask[:, None, None]) | (away == 0)

    def first_seen(self, place: Tensor) -> Tensor | None:
        return None if self.reach is None else (place - self.reach + 1).clamp(min=0)
