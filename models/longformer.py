"""Longformer: a sliding window, and a few global positions that see and are seen by all.

Beltagy et al. 2020 (arXiv:2004.05150), section 3.1: window without dilation, separate linear projections for global
attention. The input is cut into blocks of half a window, so that a block of queries sees three blocks of keys.
B batch, L length, D model width, N blocks of W positions, G global positions, H heads of width K.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lra.nn.attention import MultiHeadAttention, with_neighbours


class Longformer(MultiHeadAttention):
    """Position i attends to j if |i - j| <= window / 2 or j is global; a global position attends to all: O(L window).

    window    positions seen in total, half on each side; even
    n_global  the first n_global positions are global (1 makes the class token global)
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        window: int = 512,
        n_global: int = 0,
        n_heads: int = 4,
        d_qkv: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model, n_heads, d_qkv, dropout)
        if window < 2 or window % 2:
            raise ValueError(f"window {window} is not a positive even number; hint: half of it lies on each side")
        self.window, self.n_global = window, n_global
        self.qkv_global = nn.Linear(d_model, 3 * self.d_qkv) if n_global else None
        self.out = nn.Linear(self.d_qkv, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        length = x.shape[1]
        # an input shorter than half the window is one block
        blocks = self.qkv_blocks(x, mask, min(self.window // 2, length))
        # every block copies its neighbours: recomputed in the backward pass to save memory
        y = checkpoint(self.sliding, *blocks, use_reentrant=False, preserve_rng_state=self.dropout > 0)[:, :length]
        if self.qkv_global is not None:
            y = torch.cat([self.attend_globally(x, mask), y[:, self.n_global :]], dim=1)
        return self.out(y)  # (B, L, D)

    def sliding(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor) -> Tensor:
        """Attention of each block to itself, its neighbours and the global positions: (B, N * W, d_qkv)."""
        n_blocks, width = q.shape[1:3]
        n_global = min(self.n_global, n_blocks * width)
        position, key = torch.arange(width, device=q.device), torch.arange(-width, 2 * width, device=q.device)
        near = (position[:, None] - key).abs() <= self.window // 2  # (W, 3 W)
        # global keys join every block, and leave the windows so that none counts twice
        local = real.flatten(1).clone()
        local[:, :n_global] = False
        allowed = near & with_neighbours(local.view_as(real))[:, :, None]
        window_k, window_v = with_neighbours(k), with_neighbours(v)  # (B, N, 3 W, H, K)
        if n_global:
            shared = real.flatten(1)[:, None, None, :n_global].expand(-1, n_blocks, width, -1)
            allowed = torch.cat([allowed, shared], dim=-1)
            k, v = (t.flatten(1, 2)[:, None, :n_global].expand(-1, n_blocks, -1, -1, -1) for t in (k, v))
            window_k, window_v = (
                torch.cat([window_k, k], dim=2),
                torch.cat([window_v, v], dim=2),
            )
        return self.attend_blocks(q, window_k, window_v, allowed).flatten(1, 2).flatten(-2)

    def attend_globally(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attention of the global positions to all, by their own projections: (B, G, d_qkv)."""
        assert self.qkv_global is not None
        qkv = self.qkv_global(x.masked_fill(~mask[..., None], 0)).unflatten(-1, (3, self.n_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, L, K)
        y = self.attend(q[:, :, : self.n_global], k, v, mask[:, None, None])
        return y.transpose(1, 2).flatten(-2)
