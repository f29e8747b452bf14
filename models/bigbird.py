"""BigBird: each block of positions sees its neighbours, a few random blocks, and the first and the last block.

Zaheer et al. 2020 (arXiv:2007.14062), section 2 and appendix D, internal global tokens (ITC): the first and the last
block see every position and are seen by every position.
B batch, L length, D model width, N blocks of W positions, A blocks seen by each block, H heads of width K.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lra.nn.attention import MultiHeadAttention


class BigBird(MultiHeadAttention):
    """Attention to a window of 3 blocks, n_random random ones and two global ones: O(L W) time and memory.

    block     W
    n_random  random blocks for each block and head
    seed      of the random pattern; None draws it from the global generator, so layers differ

    The last block is the last one with a real position of each example, and random blocks are drawn among the real
    blocks between the first and the last: by fixed ranks, so the pattern depends only on the example's own length.
    """

    rank: Tensor

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        block: int = 64,
        n_random: int = 3,
        seed: int | None = None,
        n_heads: int = 4,
        d_qkv: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model, n_heads, d_qkv, dropout)
        self.block, self.n_random = block, n_random
        self.out = nn.Linear(self.d_qkv, d_model)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        n_blocks = -(-max_len // block)
        order = torch.rand(n_heads, n_blocks, n_blocks, generator=generator).argsort(-1)
        self.register_buffer("rank", order.argsort(-1).int())  # (H, N, N), the highest is drawn first

    def seen_blocks(self, last: Tensor, n_blocks: int) -> tuple[Tensor, Tensor]:
        """Indices (B, H, N, A) of the blocks that each block attends to, from the last real block `last` (B,).

        The second result is bool, False where an entry is out of range or already counted.
        """
        i = torch.arange(n_blocks, device=last.device)
        last = last[:, None, None, None]
        window = i[:, None] + torch.arange(-1, 2, device=last.device)  # (N, 3)
        eligible = ((i[:, None] - i).abs() > 1) & (i > 0) & (i < last)  # (B, 1, N, N)
        rank = self.rank[:, :n_blocks, :n_blocks].masked_fill(~eligible, -1)  # (B, H, N, N)
        best, drawn = rank.topk(min(self.n_random, n_blocks), dim=-1)
        shape = (*drawn.shape[:3], -1)
        middle = (window > 0) & (window < last)
        ends = torch.cat([torch.zeros_like(last), last], dim=-1)
        index = [ends.expand(shape), window.expand(shape), drawn]
        used = [torch.cat([last >= 0, last > 0], dim=-1).expand(shape), middle.expand(shape), best >= 0]
        return torch.cat(index, dim=-1).clamp(0, n_blocks - 1), torch.cat(used, dim=-1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        *qkv, real = self.qkv_blocks(x, mask, self.block)
        q, k, v = (t.permute(0, 3, 1, 2, 4) for t in qkv)  # each (B, H, N, W, K)
        last = (mask.sum(1) - 1) // self.block  # (B,)
        sees_all = real.shape[1] <= 5 + self.n_random
        y = (self.dense if sees_all else self.blockwise)(q, k, v, real, last)
        y = y.permute(0, 2, 3, 1, 4).flatten(1, 2).flatten(-2)
        return self.out(y[:, : x.shape[1]])  # (B, L, D)

    def dense(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor, last: Tensor) -> Tensor:
        """The pattern as a mask over all pairs, for inputs with no more blocks than each of them sees."""
        n_blocks, width = q.shape[2:4]
        index, used = self.seen_blocks(last, n_blocks)
        i = torch.arange(n_blocks, device=q.device)
        seen = ((index[..., None] == i) & used[..., None]).any(-2)  # (B, H, N, N)
        seen = seen | ((i == 0) | (i == last[:, None]))[:, None, :, None]
        allowed = seen.repeat_interleave(width, 2).repeat_interleave(width, 3) & real.flatten(1)[:, None, None]
        q, k, v = (t.flatten(2, 3) for t in (q, k, v))
        return self.attend(q, k, v, allowed).unflatten(2, (-1, width))

    def blockwise(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor, last: Tensor) -> Tensor:
        """Attention of every block by its pattern, then of the first and the last one: (B, H, N, W, K)."""
        # the gathered keys and values take eight times the memory of all: recomputed in the backward pass
        y = checkpoint(self.sparse, q, k, v, real, last, use_reentrant=False, preserve_rng_state=self.dropout > 0)
        first, final = self.everywhere(q, k, v, real, last)
        is_last = torch.arange(y.shape[2], device=q.device) == last[:, None]
        y = torch.where(is_last[:, None, :, None, None], final[:, :, None], y)
        return torch.cat([first[:, :, None], y[:, :, 1:]], dim=2)

    def sparse(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor, last: Tensor) -> Tensor:
        """Attention of every block to the blocks it sees: (B, H, N, W, K)."""
        n_rows, n_heads, n_blocks, width = q.shape[:4]
        index, used = self.seen_blocks(last, n_blocks)
        row = torch.arange(n_rows * n_heads, device=q.device).view(n_rows, n_heads, 1, 1)
        flat = (index + n_blocks * row).flatten()  # indices of the (B * H * N) blocks

        def gather(t: Tensor) -> Tensor:
            """(B, H, N, W, K) -> (B * H, N, A * W, K)"""
            return t.flatten(0, 2).index_select(0, flat).view(n_rows * n_heads, n_blocks, -1, t.shape[-1])

        allowed = real[:, None].expand(-1, n_heads, -1, -1)[..., None]
        allowed = gather(allowed).squeeze(-1) & used.repeat_interleave(width, dim=-1).flatten(0, 1)
        y = self.attend(q.flatten(0, 1), gather(k), gather(v), allowed[:, :, None])
        return y.unflatten(0, (n_rows, n_heads))

    def everywhere(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Attention of the first and of the last real block to all positions: two of (B, H, W, K)."""
        final = q.take_along_dim(last[:, None, None, None, None], dim=2)
        query = torch.cat([q[:, :, 0], final.squeeze(2)], dim=2)  # (B, H, 2 W, K)
        y = self.attend(query, k.flatten(2, 3), v.flatten(2, 3), real.flatten(1)[:, None, None])
        return y[:, :, : self.block], y[:, :, self.block :]
