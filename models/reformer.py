"""Reformer: attention among positions that hash to the same bucket.

Kitaev et al. 2020 (arXiv:2001.04451), section 2: queries and keys share a projection, angular hashing assigns buckets,
positions are sorted by bucket and cut into chunks that see themselves and the chunk before; rounds of hashing are
combined by their softmax normalisers (equations 3 to 7, and 8 for the rounds).
B batch, L length, D model width, N chunks of C positions, R rounds, H heads of width K; H * K = d_qkv.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def hash_buckets(x: Tensor, rotations: Tensor) -> Tensor:
    """argmax of [x R; -x R], the angular hash of section 2.

    x (B, H, L, K), rotations (H, K, R, n_buckets / 2) -> (B, H, R, L) integers below n_buckets
    """
    turned = torch.einsum("bhlk,hkrn->bhrln", x, rotations)
    return torch.cat([turned, -turned], dim=-1).argmax(-1)


def unit_length(x: Tensor) -> Tensor:
    """x / |x| over the last axis; the small constant is the authors', who add it to the mean square."""
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() / x.shape[-1] ** 0.5


class LSHAttention(nn.Module):
    """Attention within sorted chunks: O(R L C) time and memory, and O(R L log L) for sorting.

    chunk      C; a position sees its own chunk and the one before (the first one: the last)
    n_buckets  of each round, even
    n_hashes   R
    d_qkv      width of queries (and keys) and of values; None takes d_model
    dropout    probability of dropping an attention weight while training

    Rotations are drawn anew for each training step; evaluation uses those drawn at construction. Padding is sorted
    behind all real positions and "the last chunk" is the last one of each example's own positions, so padding changes
    nothing. A position sees itself only if it sees nobody else.
    """

    rotations: Tensor

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        chunk: int = 10,
        n_buckets: int = 10,
        n_hashes: int = 1,
        n_heads: int = 4,
        d_qkv: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        d_qkv = d_model if d_qkv is None else d_qkv
        if d_qkv % n_heads:
            raise ValueError(f"d_qkv {d_qkv} is not a multiple of n_heads {n_heads}: choose heads that divide it")
        if n_buckets < 2 or n_buckets % 2:
            raise ValueError(f"n_buckets {n_buckets} is not a positive even number: each rotation serves two buckets")
        self.chunk = chunk
        self.n_buckets = n_buckets
        self.n_heads = n_heads
        self.dropout = dropout
        self.qk = nn.Linear(d_model, d_qkv, bias=False)
        self.v = nn.Linear(d_model, d_qkv, bias=False)
        self.out = nn.Linear(d_qkv, d_model)
        self.register_buffer("rotations", torch.randn(n_heads, d_qkv // n_heads, n_hashes, n_buckets // 2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        length = x.shape[1]
        missing = -length % self.chunk
        x = F.pad(x.masked_fill(~mask[..., None], 0), (0, 0, 0, missing))
        mask = F.pad(mask, (0, missing))
        qk = self.qk(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, L, K)
        v = self.v(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        rotations = torch.randn_like(self.rotations) if self.training else self.rotations
        buckets = hash_buckets(qk.detach(), rotations.to(qk.dtype))
        buckets = buckets.masked_fill(~mask[:, None, None], self.n_buckets)
        order = buckets.argsort(dim=-1, stable=True)  # (B, H, R, L), the position at each place
        y, log_sum = self.attend(qk, v, order, mask)
        place = order.argsort(dim=-1)
        y = y.take_along_dim(place[..., None], dim=3)  # (B, H, R, L, K)
        log_sum = log_sum.take_along_dim(place, dim=3)
        y = (y * log_sum.softmax(2)[..., None].to(y.dtype)).sum(2)
        return self.out(y.transpose(1, 2).flatten(-2)[:, :length])  # (B, L, D)

    def attend(self, qk: Tensor, v: Tensor, order: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax attention of sorted chunks, in sorted order: (B, H, R, L, K) and its log normaliser (B, H, R, L)."""
        n_hashes = order.shape[2]

        def sort(t: Tensor) -> Tensor:
            """(B, H, L, K) -> (B, H, R, N, C, K)"""
            t = t.take_along_dim(order.flatten(2)[..., None], dim=2)
            return t.unflatten(2, (n_hashes, -1, self.chunk))

        last = ((mask.sum(1) - 1) // self.chunk)[:, None, None, None, None]  # index of the last real chunk

        def with_previous(t: Tensor) -> Tensor:
            """Each chunk beside the one before: (B, H, R, N, C, ...) -> (B, H, R, N, 2 C, ...)"""
            index = last if t.ndim == 5 else last[..., None]
            before = torch.cat([t.take_along_dim(index, dim=3), t[:, :, :, :-1]], dim=3)
            return torch.cat([t, before], dim=4)

        q, v = sort(qk), with_previous(sort(v))
        k = with_previous(unit_length(q))
        position = order.unflatten(3, (-1, self.chunk))  # (B, H, R, N, C)
        key_position = with_previous(position)
        key_real = mask[:, None, None, None].take_along_dim(key_position.flatten(3)[:, :, :, None], -1)
        key_real = key_real.view_as(key_position)
        # an example of one chunk would meet it twice
        key_real = key_real & ~((last == 0) & (torch.arange(2 * self.chunk, device=v.device) >= self.chunk))
        scores = torch.einsum("bhrnik,bhrnjk->bhrnij", q, k)
        scores = scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
        scores = scores.masked_fill(position[..., None] == key_position[..., None, :], -1e5)
        scores = scores.masked_fill(~key_real[..., None, :], -1e9)
        log_sum = scores.logsumexp(-1, keepdim=True)
        weights = F.dropout((scores - log_sum).exp(), self.dropout, self.training).to(v.dtype)
        y = torch.einsum("bhrnij,bhrnjk->bhrnik", weights, v)
        return y.flatten(3, 4), log_sum.flatten(3)
