"""Performer: linear attention with random features that estimate the softmax kernel, or with a ReLU kernel.

Choromanski et al. 2021 (arXiv:2009.14794): positive softmax features (lemma 1, equation 7), generalised attention with
ReLU (section 2.2), orthogonal random features (section 2.4).
B batch, L length, D model width, M features, H heads, K width of a head.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lra.nn.attention import MultiHeadAttention

# Most features (B, L, H, M) computed at once; larger batches are split into rows and recomputed for the gradient. On a
# CPU what fits the cache is faster in spite of that: a step at (B, L, H, M) = (32, 512, 4, 256) takes half the time.
MAX_FEATURES = {"cpu": 2**20, "cuda": 2**28}


def orthogonal_gaussian(n_features: int, width: int) -> Tensor:
    """(M, K) Gaussian rows, orthogonal to each other within groups of K; each row alone is a standard normal."""
    blocks = []
    for _ in range(math.ceil(n_features / width)):
        q, r = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))
        # the signs of the factorisation are not uniformly distributed; this makes them so
        blocks.append((q * r.diagonal().sign()).T)
    length = torch.randn(n_features, width, dtype=torch.float64).norm(dim=1, keepdim=True)
    return (torch.cat(blocks)[:n_features] * length).to(torch.get_default_dtype())


def softmax_features(x: Tensor, w: Tensor, *, real: Tensor | None = None) -> Tensor:
    """exp(W x - |x|^2 / 2) for x scaled by K^-1/4: products estimate exp(q . k / sqrt(K)).

    x (B, L, H, K), w (M, K) -> (B, L, H, M). Queries (real=None) are divided by their largest feature at each position,
    which cancels; keys by the largest of the whole example, and keys at padding (`real` (B, L) False) get zero.
    """
    x = x / x.shape[-1] ** 0.25
    exponent = x @ w.T.to(x.dtype) - x.square().sum(-1, keepdim=True) / 2
    if real is None:
        largest = exponent.detach().amax(-1, keepdim=True)
    else:
        exponent = exponent.masked_fill(~real[..., None, None], -torch.inf)
        largest = exponent.detach().amax((1, 3), keepdim=True)
    return (exponent - largest).exp()


def relu_features(x: Tensor, w: Tensor | None) -> Tensor:
    """relu(W x), or relu(x) without W: (..., K) -> (..., M)."""
    return torch.relu(x if w is None else x @ w.T.to(x.dtype))


# added to every feature, as in the authors' code, so that the normaliser is never zero
FLOOR = {"softmax": 1e-6, "relu": 1e-3}


class Performer(MultiHeadAttention):
    """Attention phi(Q) (phi(K)^T V) normalised by phi(Q) phi(K)^T 1: O(L M) time and memory.

    kernel        "softmax" or "relu"
    n_features    M; None, with relu only, takes the K features of a head as they are
    redraw_steps  training steps between new random features; 0 keeps the first ones

    Evaluation uses the features of the last training step, which the state_dict holds.
    """

    features: Tensor | None

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        kernel: str = "relu",
        n_features: int | None = 256,
        redraw_steps: int = 0,
        n_heads: int = 4,
        d_qkv: int | None = None,
    ) -> None:
        super().__init__(d_model, n_heads, d_qkv)
        if kernel not in ("softmax", "relu"):
            raise ValueError(f"kernel {kernel!r} is not one of softmax, relu")
        if kernel == "softmax" and n_features is None:
            raise ValueError("kernel softmax needs n_features; hint: 256, its features are random")
        self.kernel, self.n_features, self.redraw_steps = kernel, n_features, redraw_steps
        self.out = nn.Linear(self.d_qkv, d_model)
        features = None if n_features is None else orthogonal_gaussian(n_features, self.d_qkv // n_heads)
        self.register_buffer("features", features)
        self.step = 0

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.step)

    def set_extra_state(self, state: Tensor) -> None:
        self.step = int(state)

    def redraw(self) -> None:
        """Draw new random features, in place."""
        if self.features is not None:
            self.features.copy_(orthogonal_gaussian(*self.features.shape))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.training and self.redraw_steps:
            if self.step and self.step % self.redraw_steps == 0:
                self.redraw()
            self.step += 1
        q, k, v = self.qkv_heads(x, mask)  # each (B, L, H, K)
        most = MAX_FEATURES.get(x.device.type, 2**28)
        rows = max(1, most // (q[0, ..., 0].numel() * (self.n_features or q.shape[-1])))
        if rows >= len(x):
            y = self.linear_attention(q, k, v, mask)
        else:
            run = partial(checkpoint, self.linear_attention, use_reentrant=False, preserve_rng_state=False)
            y = torch.cat([run(*part) for part in zip(*(t.split(rows) for t in (q, k, v, mask)), strict=True)])
        return self.out(y.flatten(-2))  # (B, L, D)

    def linear_attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """q, k, v (B, L, H, K), mask (B, L) -> (B, L, H, K)."""
        # an extra column of ones next to the values sums the normaliser; padded rows are zero and add nothing. Means
        # instead of sums keep half precision from overflowing; the ratio of the two is the same
        weight = (mask / mask.sum(1, keepdim=True))[..., None, None].to(v.dtype)
        v = (F.pad(v, (0, 1), value=1.0) * weight).transpose(1, 2)  # (B, H, L, K + 1)
        if self.kernel == "softmax":
            assert self.features is not None
            q, k = softmax_features(q, self.features), softmax_features(k, self.features, real=mask)
            q, k = q.transpose(1, 2), k.transpose(1, 2)  # (B, H, L, M)
        else:
            # transposed first, the features need no copy before the products
            q, k = (relu_features(t.transpose(1, 2), self.features) for t in (q, k))
        # the floor is added to the small sums and not to the features, which saves two large tensors
        floor = FLOOR[self.kernel]
        state = k.mT @ v + floor * v.sum(2)[:, :, None].to(v.dtype)  # (B, H, M, K + 1)
        y = q @ state + floor * state.sum(2)[:, :, None]
        return (y[..., :-1] / y[..., -1:]).transpose(1, 2)
