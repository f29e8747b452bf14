"""Reformer: attention among positions that hash to the same bucket.

Kitaev et al. 2020 (arXiv:2001.04451), section 2: queries and keys share a projection, angular hashing assigns buckets,
positions are sorted by bucket and cut into chunks that see themselves and the previous chunk; rounds of hashing are
combined by their softmax normalisers (appendix A, without its N_ij: as in the authors' code a key counts in every round
in which it is seen). Section 3, the reversible layers that recompute their inputs, is the encoder at the end.
B batch, L length, D model width, N chunks of C positions, R rounds, H heads of width K (H * K = d_qkv).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.attention import qkv_width


def hash_buckets(x: Tensor, rotations: Tensor) -> Tensor:
    """argmax of [x R; -x R], the angular hash of section 2.

    x (B, H, L, K), rotations (H, K, R, n_buckets / 2) -> (B, H, R, L) integers below n_buckets
    """
    turned = torch.einsum("bhlk,hkrn->bhrln", x, rotations)
    return torch.cat([turned, -turned], dim=-1).argmax(-1)


def unit_length(x: Tensor) -> Tensor:
    """x / |x| over the last axis; as in the authors' code, 1e-6 is added to the mean square."""
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() / x.shape[-1] ** 0.5


def pick(x: Tensor, index: Tensor) -> Tensor:
    """Rows of each example and head, x (B, H, L, K), index (B, H, I) -> (B, H, I, K): a gather with a fast gradient."""
    start = x.shape[2] * torch.arange(x.shape[0] * x.shape[1], device=x.device).view(*x.shape[:2], 1)
    return x.flatten(0, 2).index_select(0, (index + start).flatten()).view(*index.shape, -1)


class LSHAttention(nn.Module):
    """Attention within sorted chunks: O(R L C) time and memory, and O(R L log L) for sorting.

    chunk      C; a position sees its own chunk and the previous one (for the first chunk: the last)
    n_buckets  of each round, even
    n_hashes   R
    d_qkv      total width of queries (which are also the keys) and of values; None takes d_model
    dropout    probability of dropping an attention weight during training

    Each training step draws new rotations; evaluation uses those drawn at construction. Padding is sorted behind all
    real positions and "the last chunk" is the last one with a real position of the example, so padding changes nothing.
    A position sees itself only if it sees no other position.
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
        d_qkv = qkv_width(d_model, d_qkv, n_heads)
        if n_buckets < 2 or n_buckets % 2:
            raise ValueError(f"n_buckets {n_buckets} is not a positive even number; hint: a rotation has two buckets")
        self.chunk, self.n_buckets, self.n_heads, self.dropout = chunk, n_buckets, n_heads, dropout
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
        rounds = y.shape[3] * torch.arange(y.shape[2], device=y.device)[:, None]  # where each begins
        y = pick(y.flatten(2, 3), (place + rounds).flatten(2)).view_as(y)  # (B, H, R, L, K)
        if log_sum is None:
            y = y.squeeze(2)
        else:
            share = log_sum.take_along_dim(place, dim=3).softmax(2)
            y = (y * share[..., None].to(y.dtype)).sum(2)
        return self.out(y.transpose(1, 2).flatten(-2)[:, :length])  # (B, L, D)

    def attend(self, qk: Tensor, v: Tensor, order: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Softmax attention of sorted chunks, in sorted order (B, H, R, L, K), and its log normaliser (B, H, R, L).

        A single round is not weighed against others: its normaliser is None.
        """
        n_hashes = order.shape[2]

        def sort(t: Tensor) -> Tensor:
            """(B, H, L, K) -> (B, H, R, N, C, K)"""
            return pick(t, order.flatten(2)).unflatten(2, (n_hashes, -1, self.chunk))

        last = ((mask.sum(1) - 1) // self.chunk)[:, None, None, None, None]  # index of the last real chunk

        def with_previous(t: Tensor) -> Tensor:
            """Each chunk and the previous one: (B, H, R, N, C, ...) -> (B, H, R, N, 2 C, ...)"""
            index = last if t.ndim == 5 else last[..., None]
            before = torch.cat([t.take_along_dim(index, dim=3), t[:, :, :, :-1]], dim=3)
            return torch.cat([t, before], dim=4)

        q, v = sort(qk), with_previous(sort(v))
        k = with_previous(unit_length(q))
        position = order.unflatten(3, (-1, self.chunk))  # (B, H, R, N, C)
        key_position = with_previous(position)
        key_real = mask[:, None, None, None].take_along_dim(key_position.flatten(3)[:, :, :, None], -1)
        key_real = key_real.view_as(key_position)
        # an example with a single chunk would count it twice
        key_real = key_real & ~((last == 0) & (torch.arange(2 * self.chunk, device=v.device) >= self.chunk))
        scores = q @ k.mT
        scores = scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
        floor = torch.where(key_real, -1e5, -1e9).to(scores.dtype)[..., None, :]  # the position itself, padding
        others = (position[..., None] != key_position[..., None, :]) & key_real[..., None, :]
        scores = torch.where(others, scores, floor)
        log_sum = None if n_hashes == 1 else scores.logsumexp(-1, keepdim=True)
        weights = scores.softmax(-1) if log_sum is None else (scores - log_sum).exp()
        y = F.dropout(weights, self.dropout, self.training).to(v.dtype) @ v
        return y.flatten(3, 4), None if log_sum is None else log_sum.flatten(3)


class ReversibleEncoder(nn.Module):
    """Layers a' = a + attention(norm(b)), b' = b + network(norm(a')) (equation 9), memory independent of their number.

    mixer       makes the attention from (D, max_len): LSHAttention, or any other
    d_ff        width of the feed-forward network; None takes 4 D
    reversible  False stores activations as usual, for comparison: same values, same gradients

    The output is [a, b]: forward is (B, L, D) -> (B, L, 2 D).
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        n_layers: int,
        mixer: Callable[[int, int], nn.Module],
        d_ff: int | None = None,
        dropout: float = 0.0,
        reversible: bool = True,
    ) -> None:
        super().__init__()
        self.d_output = 2 * d_model
        self.reversible = reversible
        d_ff = 4 * d_model if d_ff is None else d_ff
        self.attentions = nn.ModuleList(Prenorm(mixer(d_model, max_len), d_model, dropout) for _ in range(n_layers))
        self.networks = nn.ModuleList()
        for _ in range(n_layers):
            up, down = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)
            self.networks.append(nn.Sequential(nn.LayerNorm(d_model), up, nn.GELU(), down, nn.Dropout(dropout)))
        self.norm = nn.LayerNorm(2 * d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x.masked_fill(~mask[..., None], 0)
        layers = list(zip(self.attentions, self.networks, strict=True))
        if self.reversible:
            parameters = [p for pair in layers for part in pair for p in part.parameters()]
            a, b = Recompute.apply(x, x, mask, layers, *parameters)
        else:
            a = b = x
            for attention, network in layers:
                a = a + attention(b, mask)
                b = b + network(a)
        return self.norm(torch.cat([a, b], dim=-1))


class Prenorm(nn.Module):
    """dropout(mixer(norm(x), mask))"""

    def __init__(self, mixer: nn.Module, d_model: int, dropout: float) -> None:
        super().__init__()
        self.mixer, self.norm, self.dropout = mixer, nn.LayerNorm(d_model), nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.dropout(self.mixer(self.norm(x), mask))


class Recompute(torch.autograd.Function):
    """The layers of ReversibleEncoder; the backward pass recomputes inputs with the same random numbers."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, mask: Tensor, layers: list, *parameters: Tensor) -> tuple:
        ctx.layers, ctx.states = layers, []
        device = a.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        for attention, network in layers:
            before = random_state(a.device)
            a = a + attention(b, mask)
            between = random_state(a.device)
            b = b + network(a)
            ctx.states.append((before, between))
        ctx.save_for_backward(a, b, mask)
        return a, b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        a, b, mask = ctx.saved_tensors
        da, db = grads
        parameter_grads: list[Tensor] = []
        for (attention, network), (before, between) in zip(reversed(ctx.layers), reversed(ctx.states), strict=True):
            with replay(between, ctx.autocast, a.device):
                a_in = a.detach().requires_grad_()
                y = network(a_in)
            grad, *network_grads = torch.autograd.grad(y, [a_in, *network.parameters()], db.to(y.dtype))
            b, da = b - y.detach(), da + grad
            with replay(before, ctx.autocast, a.device):
                b_in = b.detach().requires_grad_()
                y = attention(b_in, mask)
            grad, *attention_grads = torch.autograd.grad(y, [b_in, *attention.parameters()], da.to(y.dtype))
            a, db = a - y.detach(), db + grad
            parameter_grads = [*attention_grads, *network_grads, *parameter_grads]
        return da, db, None, None, *parameter_grads


def random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def replay(state: tuple[Tensor, Tensor | None], autocast: tuple, device: torch.device) -> Iterator[None]:
    """Compute with gradients and with the random state and autocast of the forward pass; restore them at the end."""
    kind, dtype, enabled = autocast
    with torch.random.fork_rng([device] if kind == "cuda" else []), torch.enable_grad():
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1], device)
        with torch.autocast(kind, dtype, enabled):
            yield
