"""Performer: linear attention whose random features estimate the softmax kernel, or a ReLU kernel.

Choromanski et al. 2021 (arXiv:2009.14794): positive softmax features (lemma 1, equation 7), generalised attention with
ReLU (section 2.2), orthogonal random features (section 2.4).
B batch, L length, D model width, M features, H heads, K width of a head; H * K = d_qkv.
"""

import math

import torch
from torch import Tensor, nn


def orthogonal_gaussian(n_features: int, width: int) -> Tensor:
    """(M, K) Gaussian rows, orthogonal to each other within groups of K; each row alone is a standard normal."""
    blocks = []
    for _ in range(math.ceil(n_features / width)):
        q, r = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))
        # the factorisation alone prefers some signs; this makes the distribution uniform
        blocks.append((q * r.diagonal().sign()).T)
    length = torch.randn(n_features, width, dtype=torch.float64).norm(dim=1, keepdim=True)
    return (torch.cat(blocks)[:n_features] * length).to(torch.get_default_dtype())


def softmax_features(x: Tensor, w: Tensor, *, shared: Tensor | None = None) -> Tensor:
    """exp(W x - |x|^2 / 2) for x scaled by K^-1/4: products estimate exp(q . k / sqrt(K)).

    x (B, L, H, K), w (M, K) -> (B, L, H, M), divided by the largest of each position, which cancels in a query; for
    keys `shared` (B, L) names the real positions, and the largest of a whole example is taken.
    """
    x = x / x.shape[-1] ** 0.25
    exponent = x @ w.T.to(x.dtype) - x.square().sum(-1, keepdim=True) / 2
    if shared is None:
        largest = exponent.amax(-1, keepdim=True)
    else:
        largest = exponent.masked_fill(~shared[..., None, None], -torch.inf).amax((1, 3), keepdim=True)
    # above the largest lies padding only, which is thrown away; clamped, it stays finite
    return (exponent - largest.detach()).clamp(max=0).exp() + 1e-6


def relu_features(x: Tensor, w: Tensor | None) -> Tensor:
    """relu(W x) + 0.001, or relu(x) + 0.001 without W: (B, L, H, M)."""
    return torch.relu(x if w is None else x @ w.T.to(x.dtype)) + 1e-3


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
        if self.kernel == "softmax":
            assert self.features is not None
            q, k = softmax_features(q, self.features), softmax_features(k, self.features, shared=mask)
        else:
            q, k = relu_features(q, self.features), relu_features(k, self.features)  # (B, L, H, M)
        # the mean in place of the sum, in both products: the ratio is the same and half precision does not overflow
        k = k * (mask / mask.sum(1, keepdim=True))[..., None, None].to(k.dtype)
        state = torch.einsum("blhm,blhk->bhmk", k, v)
        scale = torch.einsum("blhm,bhm->blh", q, k.sum(1))
        y = torch.einsum("blhm,bhmk->blhk", q, state) / scale[..., None]
        return self.out(y.flatten(-2))  # (B, L, D)
