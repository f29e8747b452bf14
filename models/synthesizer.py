"""Synthesizer: learned attention scores, or scores computed only from the query, added to or replacing dot products.

Tay et al. 2021 (arXiv:2005.00743), section 3: dense, random and factorised scores and mixtures of them. As in Long
Range Arena the parts of a mixture are added without weights.
B batch, L length, D model width, R rank, H heads, K width of a head (H * K = d_qkv).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.attention import qkv_width

PARTS = ("dot", "random", "factorised_random", "dense", "factorised_dense")


class Synthesizer(nn.Module):
    """softmax(sum of parts) V; O(L^2) time, as published.

    parts     any of
              "dot"                q . k / sqrt(K), the scores of the Transformer
              "random"             a learned (L, L) matrix for each head
              "factorised_random"  the product of learned (L, R) and (R, L)
              "dense"              a two-layer network of each position, with an output for each key position
              "factorised_dense"   the outer product of two such networks with sqrt(L) outputs
    rank      R
    d_qkv     total width of queries, keys and values; None takes d_model
    dropout   probability of dropping an attention weight during training

    With "dot" and "factorised_random" only, the sum is one dot product of longer vectors, and fused attention never
    stores the (L, L) scores. All but "dot" have parameters for each position below max_len.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        parts: Sequence[str] = ("factorised_random", "dot"),
        rank: int = 32,
        n_heads: int = 4,
        d_qkv: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        d_qkv = qkv_width(d_model, d_qkv, n_heads)
        for part in parts:
            if part not in PARTS:
                raise ValueError(f"parts: {part!r} is not one of {', '.join(PARTS)}")
        width = d_qkv // n_heads
        self.parts, self.n_heads, self.dropout = tuple(parts), n_heads, dropout
        self.v = nn.Linear(d_model, d_qkv)
        self.out = nn.Linear(d_qkv, d_model)
        if "dot" in parts:
            self.qk = nn.Linear(d_model, 2 * d_qkv)
        if "random" in parts:
            self.random = nn.Parameter(0.02 * torch.randn(n_heads, max_len, max_len))
        if "factorised_random" in parts:
            self.left = nn.Parameter(0.1 * torch.randn(n_heads, max_len, rank))
            self.right = nn.Parameter(0.1 * torch.randn(n_heads, max_len, rank))
        if "dense" in parts or "factorised_dense" in parts:
            self.hidden = nn.Linear(d_model, d_qkv)
        if "dense" in parts:
            self.dense = nn.Linear(width, max_len)
        if "factorised_dense" in parts:
            n_rows = math.isqrt(max_len - 1) + 1
            self.rows, self.columns = nn.Linear(width, n_rows), nn.Linear(width, -(-max_len // n_rows))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x.masked_fill(~mask[..., None], 0)
        v = self.v(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, L, K)
        fused = set(self.parts) <= {"dot", "factorised_random"}
        y = self.fused(x, v, mask) if fused else self.explicit(x, v, mask)
        return self.out(y.transpose(1, 2).flatten(-2))  # (B, L, D)

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors whose products are the sum of "dot" and "factorised_random": two of (B, H, L, K + R)."""
        left, right = [], []
        if "dot" in self.parts:
            q, k = self.qk(x).unflatten(-1, (2, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
            left, right = [q / math.sqrt(q.shape[-1])], [k]
        if "factorised_random" in self.parts:
            for side, matrix in ((left, self.left), (right, self.right)):
                side.append(matrix[:, : x.shape[1]].expand(len(x), -1, -1, -1).to(side[0].dtype if side else x.dtype))
        return torch.cat(left, dim=-1), torch.cat(right, dim=-1)

    def fused(self, x: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        q, k = self.factors(x)
        # the fused kernels need the same width for queries, keys and values
        width = max(q.shape[-1], v.shape[-1])
        q, k = (F.pad(t, (0, width - t.shape[-1])).to(v.dtype) for t in (q, k))
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(
            q, k, F.pad(v, (0, width - v.shape[-1])), attn_mask=mask[:, None, None], dropout_p=dropout, scale=1.0
        )
        return y[..., : v.shape[-1]]

    def explicit(self, x: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        length = x.shape[1]
        scores: Tensor | float = 0.0
        if "dot" in self.parts or "factorised_random" in self.parts:
            left, right = self.factors(x)
            scores = left @ right.transpose(-1, -2)  # (B, H, L, L)
        if "random" in self.parts:
            scores = scores + self.random[:, :length, :length]
        if "dense" in self.parts or "factorised_dense" in self.parts:
            hidden = torch.relu(self.hidden(x)).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        if "dense" in self.parts:
            scores = scores + F.linear(hidden, self.dense.weight[:length], self.dense.bias[:length])
        if "factorised_dense" in self.parts:
            outer = self.rows(hidden)[..., :, None] * self.columns(hidden)[..., None, :]
            scores = scores + outer.flatten(-2)[..., :length]
        assert isinstance(scores, Tensor)
        weights = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1).to(v.dtype)
        return F.dropout(weights, self.dropout, self.training) @ v
