"""Performer: linear attention whose random features estimate the softmax kernel, or a ReLU kernel.

Choromanski et al. 2021 (arXiv:2009.14794): positive softmax features (lemma 1, equation 7), generalised attention with
ReLU (section 2.2), orthogonal random features (section 2.4).
B batch, L length, D model width, M features, H heads, K width of a head; H * K = d_qkv.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Features (B, L, H, M) made at once; beyond that, rows in turn and again for the gradient. On a processor what fits the
# cache is faster, although it is made twice: a step at (B, L, H, M) = (32, 512, 4, 256) takes half the time.
MAX_FEATURES = {"cpu": 2**20, "cuda": 2**28}


def orthogonal_gaussian(n_features: int, width: int) -> Tensor:
    """(M, K) Gaussian rows, orthogonal to each other within groups of K; each row alone is a standard normal."""
    blocks = []
    for _ in range(math.ceil(n_features / width)):
        q, r = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))
        # the factorisation alone prefers some signs; this makes the distribution uniform
        blocks.append((q * r.diagonal().sign()).T)
    length = torch.randn(n_features, width, dtype=torch.float64).norm(dim=1, keepdim=True)
    return (torch.cat(blocks)[:n_features] * length).to(torch.get_default_dtype())


def softmax_features(x: Tensor, w: Tensor, *, real: Tensor | None = None) -> Tensor:
    """exp(W x - |x|^2 / 2) for x scaled by K^-1/4: products estimate exp(q . k / sqrt(K)).

    x (B, L, H, K), w (M, K) -> (B, L, H, M), divided by the largest of each position, which cancels in a query; for
    keys `real` (B, L) names the real positions, the largest of a whole example is taken, and padding gets zero.
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


# added to every feature, as in the authors' code, so that no query is without keys
FLOOR = {"softmax": 1e-6, "relu": 1e-3}


class Performer(nn.Module):
    """Attention phi(Q) (phi(K)^T V) normalised by phi(Q) phi(K)^T 1: O(L M) time and memory.

    kernel        "softmax" or "relu"
    n_features    M; None, with relu only, takes the K features of a head as they are
    redraw_steps  training steps between new random features; 0 keeps the first ones
    d_qkv         width of queries, keys and values together; None takes d_model

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
        super().__init__()
        d_qkv = d_model if d_qkv is None else d_qkv
        if d_qkv % n_heads:
            raise ValueError(f"d_qkv {d_qkv} is not a multiple of n_heads {n_heads}: choose heads that divide it")
        if kernel not in ("softmax", "relu"):
            raise ValueError(f"kernel {kernel!r} is not one of softmax, relu")
        if kernel == "softmax" and n_features is None:
            raise ValueError("kernel softmax needs n_features: its features are random")
        self.kernel = kernel
        self.n_features = n_features
        self.redraw_steps = redraw_steps
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_qkv)
        self.out = nn.Linear(d_qkv, d_model)
        drawn = None if n_features is None else orthogonal_gaussian(n_features, d_qkv // n_heads)
        self.register_buffer("features", drawn)
        self.step = 0

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.step)

    def set_extra_state(self, state: Tensor) -> None:
        self.step = int(state)

    def redraw(self) -> None:
        """New random features, in place."""
        if self.features is not None:
            self.features.copy_(orthogonal_gaussian(*self.features.shape))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.training and self.redraw_steps:
            if self.step and self.step % self.redraw_steps == 0:
                self.redraw()
            self.step += 1
        x = x.masked_fill(~mask[..., None], 0)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).unbind(2)  # each (B, L, H, K)
        most = MAX_FEATURES.get(x.device.type, 2**28)
        rows = max(1, most // (q[0, ..., 0].numel() * (self.n_features or q.shape[-1])))
        if rows >= len(x):
            y = self.attend(q, k, v, mask)
        else:
            parts = zip(*(t.split(rows) for t in (q, k, v, mask)), strict=True)
            y = torch.cat([checkpoint(self.attend, *p, use_reentrant=False, preserve_rng_state=False) for p in parts])
        return self.out(y.flatten(-2))  # (B, L, D)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """q, k, v (B, L, H, K), mask (B, L) -> (B, L, H, K)."""
        # a column of ones beside the values sums the normaliser; a padded row of zeros adds nothing to either. The mean
        # in place of the sum leaves their ratio alone, and half precision does not overflow
        weight = (mask / mask.sum(1, keepdim=True))[..., None, None].to(v.dtype)
        v = (F.pad(v, (0, 1), value=1.0) * weight).transpose(1, 2)  # (B, H, L, K + 1)
        if self.kernel == "softmax":
            assert self.features is not None
            q, k = softmax_features(q, self.features), softmax_features(k, self.features, real=mask)
            q, k = q.transpose(1, 2), k.transpose(1, 2)  # (B, H, L, M)
        else:
            # made in this order, they need no copy before the products
            q, k = (relu_features(t.transpose(1, 2), self.features) for t in (q, k))
        # the floor of the features goes into the small sums: the large tensors are made, and kept, once
        floor = FLOOR[self.kernel]
        state = k.mT @ v + floor * v.sum(2)[:, :, None].to(v.dtype)  # (B, H, M, K + 1)
        y = q @ state + floor * state.sum(2)[:, :, None]
        return (y[..., :-1] / y[..., -1:]).transpose(1, 2)
