"""Transformer attention with rotary positions, full or in local windows.

Su et al. 2021, "RoFormer", arXiv:2104.09864, section 3.2: queries and keys are turned by an angle proportional to
their position, so a score depends on the two positions only through their difference. The baseline of Amos et al. 2023,
"Never train from scratch", arXiv:2310.02980, which uses windows of 4096 on Path-X.

B batch, L length, D model width, H heads, K width of a head (D = H * K), W window, N windows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.attention import CachedAttention, with_neighbours


def rotate(x: Tensor, base: float = 10000.0, place: Tensor | None = None) -> Tensor:
    """Turn the pair (x[2i], x[2i + 1]) at position m by the angle m * base^(-2i / K): equation 34. x (B, H, L, K).

    place  positions (B, L); None: 0 ... L - 1
    """
    length, width = x.shape[-2:]
    # bf16 cannot count to L: angles are float32, or float64 where the input is
    exact = torch.promote_types(x.dtype, torch.float32)
    rate = base ** (-torch.arange(0, width, 2, device=x.device, dtype=exact) / width)
    position = torch.arange(length, device=x.device) if place is None else place[:, None]
    angle = position.to(exact)[..., None] * rate  # (L, K / 2) or (B, 1, L, K / 2)
    cos, sin = angle.cos(), angle.sin()
    even, odd = x.to(exact).unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return turned.flatten(-2).to(x.dtype)


class RotaryAttention(CachedAttention):
    """Multi-head softmax attention over rotated queries and keys.

    n_heads  heads; d_model / n_heads must be even
    window   None: every position sees every other, O(L^2); W: a position sees its own block of W positions and the
             two neighbouring blocks, O(L * W)
    causal   a position attends to itself and earlier ones; steps use a cache of keys and values for max_len positions
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        n_heads: int = 8,
        dropout: float = 0.0,
        window: int | None = None,
        causal: bool = False,
    ):
        if d_model % (2 * n_heads):
            raise ValueError(f"n_heads: {n_heads} heads of even width do not fit d_model {d_model}")
        super().__init__(d_model, max_len, n_heads, None, dropout, causal)
        # one block that holds everything is full attention
        self.window = window if window is not None and window < max_len else None
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        length = x.shape[1]
        q, k, v = (t.transpose(1, 2) for t in self.qkv_heads(x, mask))  # each (B, H, L, K)
        q, k = rotate(q), rotate(k)
        if self.window is None or length <= self.window:
            y = self.attend_causally(q, k, v) if self.causal else self.attend(q, k, v, mask[:, None, None])
            y = y.transpose(1, 2)
        else:
            missing = -length % self.window
            q, k, v = (F.pad(t.transpose(1, 2), (0, 0, 0, 0, 0, missing)) for t in (q, k, v))
            blocks = [t.unflatten(1, (-1, self.window)) for t in (q, k, v, F.pad(mask, (0, missing)))]
            k, v, real = (with_neighbours(t) for t in blocks[1:])  # (B, N, 3 W, H, K), (B, N, 3 W)
            allowed = real[:, :, None]
            if self.causal:
                place = torch.arange(-self.window, 2 * self.window, device=x.device)
                allowed = allowed & (place <= place[self.window : -self.window, None])  # (B, N, W, 3 W)
            y = self.attend_blocks(blocks[0], k, v, allowed).flatten(1, 2)[:, :length]
        return self.out(y.flatten(-2))  # (B, L, D)

    def with_position(self, x: Tensor, place: Tensor) -> Tensor:
        return rotate(x, place=place)

    def first_seen(self, place: Tensor) -> Tensor | None:
        return None if self.window is None else (place // self.window - 1).clamp(min=0) * self.window
