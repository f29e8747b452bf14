"""Longformer: a sliding window, and a few global positions that see and are seen by all.

Beltagy et al. 2020 (arXiv:2004.05150), section 3.1: window without dilation, linear projections of their own for global
attention. The window is cut into blocks as long as its half; a block of queries sees three blocks of keys.
B batch, L length, D model width, N blocks of W positions, G global positions, H heads of width K; H * K = d_qkv.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def with_neighbours(x: Tensor) -> Tensor:
    """Each block beside the one before and the one after: (B, N, W, ...) -> (B, N, 3 W, ...); zeros past the ends."""
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
    after = torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], dim=1)
    return torch.cat([before, x, after], dim=2)


class Longformer(nn.Module):
    """Position i attends to j if |i - j| <= window / 2 or j is global; a global position attends to all: O(L window).

    window    positions seen in total, half on each side; even
    n_global  the first n_global positions are global (with a class token in front, 1 makes it so)
    d_qkv     width of queries, keys and values together; None takes d_model
    dropout   probability of dropping an attention weight while training
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
        super().__init__()
        d_qkv = d_model if d_qkv is None else d_qkv
        if d_qkv % n_heads:
            raise ValueError(f"d_qkv {d_qkv} is not a multiple of n_heads {n_heads}: choose heads that divide it")
        if window < 2 or window % 2:
            raise ValueError(f"window {window} is not a positive even number: half of it lies on each side")
        self.window = window
        self.n_global = n_global
        self.n_heads = n_heads
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_qkv)
        self.qkv_global = nn.Linear(d_model, 3 * d_qkv) if n_global else None
        self.out = nn.Linear(d_qkv, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x.masked_fill(~mask[..., None], 0)
        y = self.sliding(x, mask)
        if self.qkv_global is not None:
            y = torch.cat([self.everywhere(x, mask), y[:, self.n_global :]], dim=1)
        return self.out(y)  # (B, L, D)

    def sliding(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attention of every position to its window and to the global positions: (B, L, d_qkv)."""
        length = x.shape[1]
        # an input shorter than half the window is one block
        width = min(self.window // 2, length)
        missing = -length % width
        x, mask = F.pad(x, (0, 0, 0, missing)), F.pad(mask, (0, missing))
        qkv = self.qkv(x).unflatten(-1, (3, self.n_heads, -1))  # (B, L, 3, H, K)
        # every block copies its neighbours: for the backward pass once more
        y = checkpoint(self.blockwise, qkv, mask, width, use_reentrant=False, preserve_rng_state=self.dropout > 0)
        return y[:, :length]

    def blockwise(self, qkv: Tensor, mask: Tensor, width: int) -> Tensor:
        """Attention of each block of positions to itself, its neighbours and the global positions: (B, L, d_qkv)."""
        side, n_global = self.window // 2, min(self.n_global, mask.shape[1])
        q, k, v = qkv.unflatten(1, (-1, width)).unbind(3)  # each (B, N, W, H, K)
        k, v = with_neighbours(k), with_neighbours(v)  # (B, N, 3 W, H, K)
        # global keys join every block, and leave the windows so that none counts twice
        local = mask.clone()
        local[:, :n_global] = False
        real = with_neighbours(local.unflatten(1, (-1, width)))  # (B, N, 3 W)
        query, key = torch.arange(width, device=qkv.device), torch.arange(-width, 2 * width, device=qkv.device)
        near = (query[:, None] - key).abs() <= side  # (W, 3 W)
        allowed = near & real[:, :, None]
        if n_global:
            shared = qkv[:, None, :n_global].expand(-1, q.shape[1], -1, -1, -1, -1)  # (B, N, G, 3, H, K)
            k, v = torch.cat([k, shared[..., 1, :, :]], dim=2), torch.cat([v, shared[..., 2, :, :]], dim=2)
            seen = mask[:, None, None, :n_global].expand(-1, q.shape[1], width, -1)
            allowed = torch.cat([allowed, seen], dim=-1)
        # a padded query far from all that is real may attend to anything: a softmax over no keys is nan
        allowed = allowed | ~allowed.any(-1, keepdim=True)
        q, k, v = (t.flatten(0, 1).transpose(1, 2) for t in (q, k, v))  # (B * N, H, W or 3 W + G, K)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed.flatten(0, 1)[:, None], dropout_p=dropout)
        return y.transpose(1, 2).flatten(-2).view(*mask.shape, -1)

    def everywhere(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attention of the global positions to all, by projections of their own: (B, G, d_qkv)."""
        assert self.qkv_global is not None
        qkv = self.qkv_global(x).unflatten(-1, (3, self.n_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, L, K)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(
            q[:, :, : self.n_global], k, v, attn_mask=mask[:, None, None], dropout_p=dropout
        )
        return y.transpose(1, 2).flatten(-2)
