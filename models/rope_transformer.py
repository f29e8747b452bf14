"""Transformer attention with rotary positions, full or in local windows.

Su et al. 2021, "RoFormer", arXiv:2104.09864, section 3.2: queries and keys are turned by an angle proportional to
their position, so that a score depends on the two positions through their difference only. The baseline of Amos et
al. 2023, "Never train from scratch", arXiv:2310.02980, which uses windows of 4096 on Path-X.

B batch, L length, D model width, H heads, K width of a head (D = H * K), W window, N windows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotate(x: Tensor, base: float = 10000.0) -> Tensor:
    """Turns the pair (x[2i], x[2i + 1]) at position m by the angle m * base^(-2i / K): equation 34. x (B, H, L, K)."""
    length, width = x.shape[-2:]
    # angles reach L, which bf16 cannot count; float32 and better where the input is better
    exact = torch.promote_types(x.dtype, torch.float32)
    rate = base ** (-torch.arange(0, width, 2, device=x.device, dtype=exact) / width)
    angle = torch.arange(length, device=x.device, dtype=exact)[:, None] * rate  # (L, K / 2)
    cos, sin = angle.cos(), angle.sin()
    even, odd = x.to(exact).unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return turned.flatten(-2).to(x.dtype)


def windows(x: Tensor, size: int) -> Tensor:
    """Each window with its two neighbours along dim 1, zeros outside: (B, N * W, ...) -> (B, N, 3 * W, ...)."""
    blocks = x.unflatten(1, (-1, size))
    zeros = torch.zeros_like(blocks[:, :1])
    padded = torch.cat([zeros, blocks, zeros], dim=1)
    return torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=2)


class RotaryAttention(nn.Module):
    """Multi-head softmax attention over rotated queries and keys.

    n_heads  heads; d_model / n_heads must be even
    dropout  of attention weights
    window   None: every position sees every other, O(L^2); W: a position sees its own block of W positions and the
             two blocks beside it, O(L * W)
    """

    def __init__(
        self, d_model: int, max_len: int, *, n_heads: int = 8, dropout: float = 0.0, window: int | None = None
    ):
        super().__init__()
        if d_model % (2 * n_heads):
            raise ValueError(f"n_heads: {n_heads} heads of even width do not fit d_model {d_model}")
        self.n_heads, self.dropout = n_heads, dropout
        # one block that holds everything is full attention
        self.window = window if window is not None and window < max_len else None
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        # a zero weight does not silence inf or nan, so whatever lies in the padding is cleared first
        x = x.masked_fill(~mask[..., None], 0)
        qkv = self.qkv(x).unflatten(-1, (3, self.n_heads, -1))  # (B, L, 3, H, K)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # each (B, H, L, K)
        q, k = rotate(q), rotate(k)
        attend = self.attend if self.window is None or x.shape[1] <= self.window else self.attend_locally
        return self.out(attend(q, k, v, mask).transpose(1, 2).flatten(-2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Attention of q (B, H, Q, K) over the real ones among k, v (B, H, L, K)."""
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :], dropout_p=dropout)

    def attend_locally(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """The same, each window over itself and its neighbours; windows become rows of the batch."""
        assert self.window is not None
        batch, length = mask.shape
        extra = -length % self.window
        q, k, v = (F.pad(part.transpose(1, 2), (0, 0, 0, 0, 0, extra)) for part in (q, k, v))  # (B, N * W, H, K)
        near = windows(F.pad(mask, (0, extra)), self.window).flatten(0, 1)  # (B * N, 3 * W)
        # a window of padding sees no real key: it may see all, since nothing reads it
        near = near | ~near.any(1, keepdim=True)
        rows = q.unflatten(1, (-1, self.window)).flatten(0, 1).transpose(1, 2)  # (B * N, H, W, K)
        k, v = (windows(part, self.window).flatten(0, 1).transpose(1, 2) for part in (k, v))
        y = self.attend(rows, k, v, near).transpose(1, 2)  # (B * N, W, H, K)
        return y.unflatten(0, (batch, -1)).flatten(1, 2)[:, :length].transpose(1, 2)
