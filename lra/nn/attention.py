"""Parts that attention models share: projections and heads, softmax attention, blocks of positions.

B batch, L length, D model width, N blocks of W positions, H heads of width K (H * K = d_qkv), S positions seen.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def qkv_width(d_model: int, d_qkv: int | None, n_heads: int) -> int:
    """d_qkv, or d_model where it is None; ValueError if the heads do not divide it."""
    width = d_model if d_qkv is None else d_qkv
    if width % n_heads:
        raise ValueError(f"d_qkv {width} is not a multiple of n_heads {n_heads}; hint: choose heads that divide it")
    return width


def with_neighbours(x: Tensor) -> Tensor:
    """Each block with the previous and the next one, zeros past the ends: (B, N, W, ...) -> (B, N, 3 W, ...)."""
    zeros = torch.zeros_like(x[:, :1])
    return torch.cat([torch.cat([zeros, x[:, :-1]], dim=1), x, torch.cat([x[:, 1:], zeros], dim=1)], dim=2)


class MultiHeadAttention(nn.Module):
    """Base of attention mixers: projections to queries, keys and values, and softmax attention with dropout.

    n_heads  H
    d_qkv    total width of queries, keys and values; None takes d_model
    dropout  probability of dropping an attention weight during training; None for models without this dropout

    A model adds `out`, the map from d_qkv to d_model, after its other parameters: checkpoints depend on their order.
    """

    out: nn.Linear
    dropout: float = 0.0

    def __init__(self, d_model: int, n_heads: int, d_qkv: int | None, dropout: float | None = None) -> None:
        super().__init__()
        self.n_heads, self.d_qkv = n_heads, qkv_width(d_model, d_qkv, n_heads)
        if dropout is not None:
            self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * self.d_qkv)

    def qkv_heads(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, L, H, K); padding is set to zero before the projection."""
        # zero weight times nan is nan, so padding may hold neither nan nor infinity
        x = x.masked_fill(~mask[..., None], 0)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).unbind(2)
        return q, k, v

    def qkv_blocks(self, x: Tensor, mask: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values in blocks (B, N, W, H, K), the last block padded, and their mask (B, N, W)."""
        missing = -x.shape[1] % width
        x, mask = F.pad(x, (0, 0, 0, missing)), F.pad(mask, (0, missing))
        q, k, v = (t.unflatten(1, (-1, width)) for t in self.qkv_heads(x, mask))
        return q, k, v, mask.unflatten(1, (-1, width))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        """Softmax attention of q (B, H, L, K) over the allowed ones (B, 1 or H, 1 or L, S) of k, v (B, H, S, K)."""
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)

    def attend_blocks(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
        """Softmax attention of q (B, N, W, H, K) over the allowed (B, N, 1 or W, S) of k, v (B, N, S, H, K)."""
        # softmax over no keys is nan: such a query, which is padding or far from all real keys, may see any key
        allowed = allowed | ~allowed.any(-1, keepdim=True)
        n_blocks = q.shape[1]
        q, k, v = (t.flatten(0, 1).transpose(1, 2) for t in (q, k, v))  # (B * N, H, W or S, K)
        return self.attend(q, k, v, allowed.flatten(0, 1)[:, None]).transpose(1, 2).unflatten(0, (-1, n_blocks))
