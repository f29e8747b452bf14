"""Luna: attention through a short learned sequence that is passed from layer to layer.

Ma et al. 2021 (arXiv:2106.01540), section 3.1: pack the input into P positions (equation 6), unpack it again (7); both
sequences are inputs of the next layer (8), so this is an encoder and not a mixer. "Luna-256" has P = 256.
B batch, L length, D model width, P packed positions, H heads of width D / H.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.attention import qkv_width


class LunaAttention(nn.Module):
    """Nested attention: packed = Attn(p, x, x), y = Attn(x, packed, packed); O(L P) time and memory.

    tie_kv   one projection serves keys and values, in both attentions
    dropout  probability of dropping an attention weight during training

    As in the authors' code the packed sequence has no output projection.
    """

    def __init__(self, d_model: int, *, n_heads: int, tie_kv: bool, dropout: float) -> None:
        super().__init__()
        qkv_width(d_model, None, n_heads)  # raises if the heads do not fit
        self.n_heads, self.dropout, self.n_kv = n_heads, dropout, 1 if tie_kv else 2
        self.pack_query = nn.Linear(d_model, d_model)
        self.pack_kv = nn.Linear(d_model, self.n_kv * d_model)
        self.query = nn.Linear(d_model, d_model)
        self.kv = nn.Linear(d_model, self.n_kv * d_model)
        self.out = nn.Linear(d_model, d_model)

    def attend(self, query: Tensor, kv: Tensor, mask: Tensor | None) -> Tensor:
        """Multi-head attention of query (B, I, D) over kv (B, J, D or 2 D) with mask (B, J): (B, I, D)."""
        k, v = kv.chunk(2, dim=-1) if self.n_kv == 2 else (kv, kv)
        q, k, v = (t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in (query, k, v))
        allowed = None if mask is None else mask[:, None, None]
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
        return y.transpose(1, 2).flatten(-2)

    def forward(self, x: Tensor, p: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, L, D), p (B, P, D) -> the unpacked (B, L, D) and the packed (B, P, D)."""
        packed = self.attend(self.pack_query(p), self.pack_kv(x), mask)
        y = self.attend(self.query(x), self.kv(packed), None)
        return self.out(y), packed


class LunaLayer(nn.Module):
    """Nested attention and a feed-forward network with residuals; the packed sequence skips the network (8)."""

    def __init__(
        self, d_model: int, d_ff: int | None, *, prenorm: bool, last: bool, n_heads: int, tie_kv: bool, dropout: float
    ) -> None:
        super().__init__()
        d_ff = 4 * d_model if d_ff is None else d_ff
        self.prenorm = prenorm
        self.attention = LunaAttention(d_model, n_heads=n_heads, tie_kv=tie_kv, dropout=dropout)
        self.feed = nn.Sequential(
            nn.Linear(d_model, d_ff), nn.GELU(), nn.Dropout(dropout), nn.Linear(d_ff, d_model), nn.Dropout(dropout)
        )
        self.dropout = nn.Dropout(dropout)
        self.norm_x, self.norm_feed = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        # the last layer's packed output is unused, so a norm after it would get no gradient
        self.norm_p = nn.LayerNorm(d_model) if prenorm or not last else nn.Identity()

    def forward(self, x: Tensor, p: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if self.prenorm:
            y, packed = self.attention(self.norm_x(x), self.norm_p(p), mask)
            x, p = x + self.dropout(y), p + self.dropout(packed)
            return x + self.feed(self.norm_feed(x)), p
        y, packed = self.attention(x, p, mask)
        x, p = self.norm_x(x + self.dropout(y)), self.norm_p(p + self.dropout(packed))
        return self.norm_feed(x + self.feed(x)), p


class Luna(nn.Module):
    """Luna encoder, (B, L, D) and its mask -> (B, L, D).

    n_packed  P; all P positions are used for every example, whatever its length
    d_ff      width of the feed-forward network; None takes 4 D
    prenorm   norm before the layers and once at the end; False is the paper's equation 8
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        n_layers: int,
        dropout: float = 0.0,
        n_packed: int = 256,
        n_heads: int = 4,
        d_ff: int | None = None,
        prenorm: bool = True,
        tie_kv: bool = True,
    ) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.randn(n_packed, d_model) / d_model**0.5)
        self.layers = nn.ModuleList(
            LunaLayer(d_model, d_ff, prenorm=prenorm, last=last, n_heads=n_heads, tie_kv=tie_kv, dropout=dropout)
            for last in [False] * (n_layers - 1) + [True]
        )
        self.norm = nn.LayerNorm(d_model) if prenorm else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x.masked_fill(~mask[..., None], 0)
        p = self.p.expand(len(x), -1, -1)
        for layer in self.layers:
            x, p = layer(x, p, mask)
        return self.norm(x)
