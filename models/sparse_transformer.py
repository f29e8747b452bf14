"""Sparse Transformer: two factorised patterns that reach every position in two steps.

Child et al. 2019 (arXiv:1904.10509), section 4.3: strided and fixed attention. The two patterns of a kind are merged
in every head (the paper's "merged head"), as Long Range Arena runs them. The paper's patterns are causal; these look
both ways, since a classifier reads the whole input and a causal class token would see itself alone.
B batch, L length, D model width, N blocks of W positions, M groups of G blocks, H heads of width K.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def with_neighbours(x: Tensor) -> Tensor:
    """Each block beside the one before and the one after: (B, N, W, ...) -> (B, N, 3 W, ...); zeros past the ends."""
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
    after = torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], dim=1)
    return torch.cat([before, x, after], dim=2)


class SparseTransformer(nn.Module):
    """Attention of position i to a union of two sets: O(L (W + L C / W)) or O(L (W + L / W)).

    With W near sqrt(L) both are O(L sqrt(L)), as published.

    pattern   "fixed": the positions of i's own block, and the last `n_summary` (C) positions of every block
              "strided": j with |i - j| < block, and j with i - j a multiple of block
    block     W, the paper's stride l; None takes the square root of max_len
    d_qkv     width of queries, keys and values together; None takes d_model
    dropout   probability of dropping an attention weight while training
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        pattern: str = "fixed",
        block: int | None = 50,
        n_summary: int = 10,
        n_heads: int = 4,
        d_qkv: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        d_qkv = d_model if d_qkv is None else d_qkv
        if d_qkv % n_heads:
            raise ValueError(f"d_qkv {d_qkv} is not a multiple of n_heads {n_heads}: choose heads that divide it")
        if pattern not in ("fixed", "strided"):
            raise ValueError(f"pattern {pattern!r} is not one of fixed, strided")
        self.block = max(1, math.isqrt(max_len)) if block is None else block
        if pattern == "fixed" and not 0 < n_summary <= self.block:
            raise ValueError(f"n_summary {n_summary} is not in 1..block {self.block}: it counts positions of a block")
        self.pattern = pattern
        self.n_summary = n_summary
        self.n_heads = n_heads
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_qkv)
        self.out = nn.Linear(d_qkv, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        length = x.shape[1]
        missing = -length % self.block
        x = F.pad(x.masked_fill(~mask[..., None], 0), (0, 0, 0, missing))
        real = F.pad(mask, (0, missing)).unflatten(1, (-1, self.block))  # (B, N, W)
        qkv = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).unflatten(1, (-1, self.block))
        q, k, v = qkv.unbind(3)  # each (B, N, W, H, K)
        y = self.fixed(q, k, v, real) if self.pattern == "fixed" else self.strided(q, k, v, real)
        return self.out(y.flatten(1, 2).flatten(-2)[:, :length])  # (B, L, D)

    def fixed(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor) -> Tensor:
        """Own block and all summaries, as dense attention of a group of blocks to its positions and all summaries."""
        n_blocks = q.shape[1]
        # blocks side by side share one copy of the summaries; more of them would compute more pairs that do not count
        n_groups = -(-n_blocks // 4)
        missing = -n_blocks % n_groups
        summaries = [t[:, :, -self.n_summary :].flatten(1, 2)[:, None] for t in (k, v, real)]  # (B, 1, N C, ...)
        q, k, v = (F.pad(t, (0, 0, 0, 0, 0, 0, 0, missing)) for t in (q, k, v))
        real = F.pad(real, (0, 0, 0, missing))
        q, k, v, real = (t.unflatten(1, (n_groups, -1)).flatten(2, 3) for t in (q, k, v, real))  # (B, M, G W, ...)
        k, v, real = (
            torch.cat([t, s.expand(-1, n_groups, *[-1] * (t.ndim - 2))], dim=2)
            for t, s in zip((k, v, real), summaries, strict=True)
        )
        block = torch.arange(n_blocks + missing, device=q.device).repeat_interleave(self.block).view(n_groups, -1, 1)
        owner = torch.arange(n_blocks, device=q.device).repeat_interleave(self.n_summary)
        # a block's own summary is already among its positions
        pairs = torch.cat([block == block.transpose(1, 2), block != owner], dim=2)  # (M, G W, G W + N C)
        allowed = pairs & real[:, :, None]
        # a padded query may see nothing: a softmax over no keys is nan
        allowed = allowed | ~allowed.any(-1, keepdim=True)
        q, k, v = (t.flatten(0, 1).transpose(1, 2) for t in (q, k, v))  # (B * M, H, G W or G W + N C, K)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed.flatten(0, 1)[:, None], dropout_p=dropout)
        y = y.transpose(1, 2).unflatten(0, (-1, n_groups)).flatten(1, 2)
        return y.unflatten(1, (-1, self.block))[:, :n_blocks]  # (B, N, W, H, K)

    def strided(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor) -> Tensor:
        """The window and the column of each position under one softmax."""
        n_blocks, width = q.shape[1:3]
        q = q / math.sqrt(q.shape[-1])
        window_k, window_v = with_neighbours(k), with_neighbours(v)  # (B, N, 3 W, H, K)
        query, key = torch.arange(width, device=q.device), torch.arange(-width, 2 * width, device=q.device)
        near = (query[:, None] - key).abs() < width  # (W, 3 W)
        in_window = near & with_neighbours(real)[:, :, None]  # (B, N, W, 3 W)
        # a position is in its own window already
        elsewhere = ~torch.eye(n_blocks, dtype=torch.bool, device=q.device)[:, None]  # (N, 1, N)
        in_column = elsewhere & real.transpose(1, 2)[:, None]  # (B, N, W, N)
        window = torch.einsum("bnihk,bnjhk->bhnij", q, window_k)
        column = torch.einsum("bnihk,bmihk->bhnim", q, k)
        scores = torch.cat([window, column], dim=-1)
        allowed = torch.cat([in_window, in_column], dim=-1)[:, None]
        # finite, so that a padded query without any key gives no nan; exactly zero weight for all others
        weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1)
        weights = F.dropout(weights, self.dropout, self.training)
        window, column = weights.split([3 * width, n_blocks], dim=-1)
        y = torch.einsum("bhnij,bnjhk->bnihk", window, window_v)
        return y + torch.einsum("bhnim,bmihk->bnihk", column, v)
