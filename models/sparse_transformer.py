"""Sparse Transformer: two factorised patterns that reach every position in two steps.

Child et al. 2019 (arXiv:1904.10509), section 4.3: strided and fixed attention. Every head merges the two patterns of a
kind (the paper's "merged head"), as Long Range Arena does. The paper's patterns are causal; these look both ways,
because a classifier reads the whole input and a causal class token would see only itself.
B batch, L length, D model width, N blocks of W positions, M groups of G blocks, C summaries, H heads of width K.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.attention import MultiHeadAttention, with_neighbours
from lra.nn.blocks import TrainedLength


class SparseTransformer(TrainedLength, MultiHeadAttention):
    """Attention of position i to a union of two sets: O(L (W + L C / W)) or O(L (W + L / W)).

    With W near sqrt(L) both are O(L sqrt(L)), as published.

    pattern   "fixed": the positions of i's own block, and the last `n_summary` (C) positions of every block
              "strided": j with |i - j| < block, and j with i - j a multiple of block
    block     W, the paper's stride l; None takes the square root of the max_len of the training
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
        super().__init__(d_model, n_heads, d_qkv, dropout)
        if pattern not in ("fixed", "strided"):
            raise ValueError(f"pattern {pattern!r} is not one of fixed, strided")
        self.fixed_block = block
        self.set_length(max_len)
        if pattern == "fixed" and not 0 < n_summary <= self.block:
            raise ValueError(f"n_summary {n_summary} is not in 1..block {self.block}; hint: it counts block positions")
        self.pattern, self.n_summary = pattern, n_summary
        self.out = nn.Linear(self.d_qkv, d_model)

    def set_length(self, length: int) -> None:
        self.length = length
        self.block = max(1, math.isqrt(length)) if self.fixed_block is None else self.fixed_block

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v, real = self.qkv_blocks(x, mask, self.block)  # each (B, N, W, H, K), (B, N, W)
        y = self.fixed(q, k, v, real) if self.pattern == "fixed" else self.strided(q, k, v, real)
        return self.out(y.flatten(1, 2).flatten(-2)[:, : x.shape[1]])  # (B, L, D)

    def fixed(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor) -> Tensor:
        """Own block and all summaries, as dense attention of a group of blocks to its positions and all summaries."""
        n_blocks = q.shape[1]
        # the blocks of a group share one copy of the summaries; larger groups would compute more masked pairs
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
        summarised = torch.arange(n_blocks, device=q.device).repeat_interleave(self.n_summary)
        # a block's own summary is already among its positions
        pairs = torch.cat([block == block.transpose(1, 2), block != summarised], dim=2)  # (M, G W, G W + N C)
        y = self.attend_blocks(q, k, v, pairs & real[:, :, None])
        return y.flatten(1, 2).unflatten(1, (-1, self.block))[:, :n_blocks]  # (B, N, W, H, K)

    def strided(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor) -> Tensor:
        """The window and the column of each position under one softmax."""
        n_blocks, width = q.shape[1:3]
        q = q / math.sqrt(q.shape[-1])
        window_k, window_v = with_neighbours(k), with_neighbours(v)  # (B, N, 3 W, H, K)
        query, key = torch.arange(width, device=q.device), torch.arange(-width, 2 * width, device=q.device)
        near = (query[:, None] - key).abs() < width  # (W, 3 W)
        in_window = near & with_neighbours(real)[:, :, None]  # (B, N, W, 3 W)
        # the window already holds the position itself
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
