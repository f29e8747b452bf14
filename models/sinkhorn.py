"""Sparse Sinkhorn attention: blocks attend to themselves and to blocks that a learned soft permutation sends to them.

Tay et al. 2020 (arXiv:2002.11296), section 3: sorting network, Sinkhorn balancing, attention. As in Long Range Arena
the sorting network is one linear map of the keys of a block (here their mean, there their sum), and the attention to a
block's own keys and the attention to the sorted keys, each with its own softmax, are added.
B batch, L length, D model width, N blocks of W positions, H heads, K width of a head; H * K = d_qkv.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinkhorn(scores: Tensor, real: Tensor, n_iterations: int) -> Tensor:
    """Scores to a nearly doubly stochastic matrix, by normalising columns and rows of the logarithm in turn.

    scores   (B, H, N, N): place i, block j
    real     (B, N) bool; all others get and give zero
    returns  (B, H, N, N); rows i of real places sum to one, columns to one as n_iterations grows
    """
    pairs = (real[:, None, :, None] & real[:, None, None]).expand_as(scores)
    # finite, and set again after each step: an empty row would otherwise become uniform
    low = torch.finfo(scores.dtype).min / 4
    log = scores.masked_fill(~pairs, low)
    for _ in range(n_iterations):
        log = (log - log.logsumexp(2, keepdim=True)).masked_fill(~pairs, low)
        log = (log - log.logsumexp(3, keepdim=True)).masked_fill(~pairs, low)
    return log.exp() * pairs


class SinkhornAttention(nn.Module):
    """Attention in blocks, with one more block of keys from anywhere for each: O(L W + (L / W)^2 + L^2 D / W).

    The last term is the mixing of blocks by dense weights; it is small against the first up to lengths near W^2.

    block         W, at most half of max_len: a single block has nothing to sort
    n_iterations  of Sinkhorn balancing
    temperature   of the sorting scores; low makes the permutation hard
    gumbel        add Gumbel noise to the sorting scores while training, as the paper does
    d_qkv         width of queries, keys and values together; None takes d_model
    dropout       probability of dropping an attention weight while training
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        block: int = 50,
        n_iterations: int = 1,
        temperature: float = 1.0,
        gumbel: bool = False,
        n_heads: int = 4,
        d_qkv: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        d_qkv = d_model if d_qkv is None else d_qkv
        if d_qkv % n_heads:
            raise ValueError(f"d_qkv {d_qkv} is not a multiple of n_heads {n_heads}: choose heads that divide it")
        if n_iterations < 1:
            raise ValueError(f"n_iterations {n_iterations} is not positive: without balancing nothing is sorted")
        self.block = min(block, -(-max_len // 2))
        self.n_iterations = n_iterations
        self.temperature = temperature
        self.gumbel = gumbel
        self.n_heads = n_heads
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_qkv)
        self.sort = nn.Linear(d_qkv // n_heads, -(-max_len // self.block))
        self.out = nn.Linear(d_qkv, d_model)

    def permutation(self, k: Tensor, real: Tensor) -> Tensor:
        """How much of block j goes to place i, from the mean real key of block j: (B, H, N, N)."""
        n_blocks = k.shape[1]
        mean = (k * real[..., None, None]).sum(2) / real.sum(2).clamp(min=1)[..., None, None]  # (B, N, H, K)
        scores = self.sort(mean)[..., :n_blocks].permute(0, 2, 3, 1)  # (B, H, N, N)
        scores = scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
        if self.gumbel and self.training:
            scores = scores - torch.empty_like(scores).exponential_().log()
        return sinkhorn(scores / self.temperature, real.any(2), self.n_iterations).to(k.dtype)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        length = x.shape[1]
        missing = -length % self.block
        x = F.pad(x.masked_fill(~mask[..., None], 0), (0, 0, 0, missing))
        real = F.pad(mask, (0, missing)).unflatten(1, (-1, self.block))  # (B, N, W)
        qkv = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).unflatten(1, (-1, self.block))
        q, k, v = qkv.unbind(3)  # each (B, N, W, H, K)
        weights = self.permutation(k, real)
        # the bias of the projection is neither key nor value at a padded position
        k, v = k * real[..., None, None], v * real[..., None, None]
        sorted_k = torch.einsum("bhij,bjwhk->biwhk", weights, k)
        sorted_v = torch.einsum("bhij,bjwhk->biwhk", weights, v)
        # a place in a sorted block is empty only where no block has a real position there
        sorted_real = real.any(1, keepdim=True).expand_as(real)
        y = self.attend(q, k, v, real) + self.attend(q, sorted_k, sorted_v, sorted_real)
        return self.out(y.flatten(1, 2).flatten(-2)[:, :length])  # (B, L, D)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor) -> Tensor:
        """Softmax attention within blocks; all (B, N, W, H, K), real (B, N, W)."""
        n_blocks = q.shape[1]
        # a block of padding alone may attend to it: a softmax over no keys is nan
        real = (real | ~real.any(-1, keepdim=True)).flatten(0, 1)[:, None, None]
        q, k, v = (t.flatten(0, 1).transpose(1, 2) for t in (q, k, v))  # (B * N, H, W, K)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=real, dropout_p=dropout)
        return y.transpose(1, 2).unflatten(0, (-1, n_blocks))
