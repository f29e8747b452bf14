"""Parts that attention models share: projections and heads, softmax attention, blocks of positions.

B batch, L length, D model width, N blocks of W positions, H heads of width K (H * K = d_qkv), S positions seen.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import require_causal


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

    def attend_causally(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax attention of q (B, H, L, K) over k, v (B, H, L, K) up to the same position.

        The padding of a row follows its real positions, which therefore need no mask.
        """
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)

    def attend_blocks(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
        """Softmax attention of q (B, N, W, H, K) over the allowed (B, N, 1 or W, S) of k, v (B, N, S, H, K)."""
        # softmax over no keys is nan: such a query, which is padding or far from all real keys, may see any key
        allowed = allowed | ~allowed.any(-1, keepdim=True)
        n_blocks = q.shape[1]
        q, k, v = (t.flatten(0, 1).transpose(1, 2) for t in (q, k, v))  # (B * N, H, W or S, K)
        return self.attend(q, k, v, allowed.flatten(0, 1)[:, None]).transpose(1, 2).unflatten(0, (-1, n_blocks))


class KeyValueCache(NamedTuple):
    """Keys and values (B, H, max_len, K) of the positions so far, and their number in each row (B,).

    New ones are written in place. An older state remains right as long as no newer one is used.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor

    def extended(self, k: Tensor, v: Tensor, place: Tensor, mask: Tensor | None) -> "KeyValueCache":
        """With k, v (B, H, L, K) at positions `place` (B, L) where mask (B, L) is True; None: everywhere.

        raises  ValueError past max_len
        """
        batch, _, length, _ = k.shape
        lengths = self.lengths + (length if mask is None else mask.sum(1))
        if (longest := int(lengths.max())) > (max_len := self.keys.shape[2]):
            raise ValueError(f"input has {longest} positions, the model was built for max_len {max_len}")
        row = torch.arange(batch, device=k.device)[:, None].expand(-1, length)
        k, v = (part.transpose(1, 2).to(self.keys.dtype) for part in (k, v))  # (B, L, H, K)
        if mask is not None:
            row, place, k, v = row[mask], place[mask], k[mask], v[mask]
        self.keys[row, :, place], self.values[row, :, place] = k, v
        return KeyValueCache(self.keys, self.values, lengths)

    def attend(self, q: Tensor, place: Tensor, first: Tensor | None = None) -> Tensor:
        """Softmax attention of q (B, H, L, K) at positions `place` (B, L) to the cached ones from `first` to it."""
        seen = int(self.lengths.max())
        other = torch.arange(seen, device=q.device)
        allowed = other <= place[..., None]  # (B, L, S)
        if first is not None:
            allowed &= other >= first[..., None]
        k, v = self.keys[:, :, :seen], self.values[:, :, :seen]
        return F.scaled_dot_product_attention(q.to(k.dtype), k, v, attn_mask=allowed[:, None])


class CachedAttention(MultiHeadAttention):
    """Softmax attention that is optionally causal and then has steps, with a cache of keys and values.

    max_len  positions that the cache has room for
    causal   a position attends to itself and earlier ones
    """

    def __init__(
        self, d_model: int, max_len: int, n_heads: int, d_qkv: int | None, dropout: float, causal: bool
    ) -> None:
        super().__init__(d_model, n_heads, d_qkv, dropout)
        self.max_len, self.causal = max_len, causal

    def with_position(self, x: Tensor, place: Tensor) -> Tensor:
        """Queries or keys x (B, H, L, K) at positions `place` (B, L)."""
        return x

    def first_seen(self, place: Tensor) -> Tensor | None:
        """First position (B, L) that a query at `place` (B, L) attends to; None: the very first."""
        return None

    def default_state(self, batch: int) -> KeyValueCache:
        keys, values = (
            self.qkv.weight.new_zeros(batch, self.n_heads, self.max_len, self.d_qkv // self.n_heads) for _ in range(2)
        )
        return KeyValueCache(keys, values, torch.zeros(batch, dtype=torch.int64, device=keys.device))

    def step(self, x: Tensor, state: KeyValueCache) -> tuple[Tensor, KeyValueCache]:
        """One position, O(L): x (B, D) -> y (B, D) and the cache with its key and value."""
        y, state = self.prefill(x[:, None], None, state)
        return y[:, 0], state

    def prefill(
        self, x: Tensor, mask: Tensor | None, state: KeyValueCache | None = None
    ) -> tuple[Tensor, KeyValueCache]:
        """Outputs (B, L, D) and the cache with the keys and values of the real positions.

        raises  RuntimeError for two-sided attention, ValueError past max_len
        """
        require_causal(self, "causal=True")
        cache = self.default_state(len(x)) if state is None else state
        place = cache.lengths[:, None] + torch.arange(x.shape[1], device=x.device)
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        q, k, v = (t.transpose(1, 2) for t in self.qkv_heads(x, real))  # each (B, H, L, K)
        q, k = self.with_position(q, place), self.with_position(k, place)
        cache, first = cache.extended(k, v, place, mask), self.first_seen(place)
        if state is None and first is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = cache.attend(q, place, first)
        return self.out(y.transpose(1, 2).flatten(-2)), cache
