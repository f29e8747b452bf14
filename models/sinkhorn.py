"""Sparse Sinkhorn attention: blocks attend to themselves and to blocks that a learned soft permutation assigns to them.

Tay et al. 2020 (arXiv:2002.11296), section 3: sorting network, Sinkhorn balancing, attention. As in Long Range Arena
the sorting network is one linear map of the keys of a block (here their mean, there their sum), and a block's attention
to its own keys and to the sorted keys, each with its own softmax, are added.
B batch, L length, D model width, N blocks of W positions, H heads, K width of a head.
"""

import torch
from torch import Tensor, nn

from lra.errors import UserError
from lra.nn.attention import MultiHeadAttention
from lra.nn.blocks import TrainedLength


def sinkhorn(scores: Tensor, real: Tensor, n_iterations: int) -> Tensor:
    """Scores to a nearly doubly stochastic matrix, by normalising columns and rows of the logarithm in turn.

    scores   (B, H, N, N): place i, block j
    real     (B, N) bool; rows and columns of other blocks are zero
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


class SinkhornAttention(TrainedLength, MultiHeadAttention):
    """Attention of each block to itself and to one mixed block of keys: O(L W + (L / W)^2 + L^2 D / W).

    The last term is the mixing of blocks by dense weights; it is small against the first up to lengths near W^2.

    block         W, at most half of the max_len of the training: a single block has nothing to sort
    n_iterations  of Sinkhorn balancing
    temperature   of the sorting scores; low makes the permutation hard
    gumbel        add Gumbel noise to the sorting scores during training, as the paper does
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
        super().__init__(d_model, n_heads, d_qkv, dropout)
        self.max_len, self.largest_block = max_len, block
        self.set_block(max_len)
        self.n_iterations, self.temperature, self.gumbel = n_iterations, temperature, gumbel
        self.sort = nn.Linear(self.d_qkv // n_heads, -(-max_len // self.block))
        self.out = nn.Linear(self.d_qkv, d_model)

    def set_block(self, length: int) -> None:
        self.length, self.block = length, min(self.largest_block, -(-length // 2))

    def set_length(self, length: int) -> None:
        self.set_block(length)
        if self.sort.out_features * self.block < self.max_len:
            raise UserError(
                f"weights for {length} positions have too few blocks for {self.max_len}", hint=f"max_len={length}"
            )

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
        q, k, v, real = self.qkv_blocks(x, mask, self.block)  # each (B, N, W, H, K), (B, N, W)
        weights = self.permutation(k, real)
        # a padded position holds the bias of the projection, which must not be mixed into other blocks
        k, v = k * real[..., None, None], v * real[..., None, None]
        sorted_k = torch.einsum("bhij,bjwhk->biwhk", weights, k)
        sorted_v = torch.einsum("bhij,bjwhk->biwhk", weights, v)
        # a place in a sorted block is empty only where no block has a real position there
        sorted_real = real.any(1, keepdim=True).expand_as(real)
        y = self.attend_blocks(q, k, v, real[:, :, None])
        y = y + self.attend_blocks(q, sorted_k, sorted_v, sorted_real[:, :, None])
        return self.out(y.flatten(1, 2).flatten(-2)[:, : x.shape[1]])  # (B, L, D)
