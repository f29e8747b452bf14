"""The diagonal resolvent in real arithmetic, as the fast backends compute it.

At the root of unity w = exp(-i theta) let s = sin(theta/2), c = cos(theta/2). Multiplied by exp(i theta/2) / 2, the
matrix (1 - w) - dt/2 (1 + w) A becomes i s - c a with a = dt/2 A: no division, and finite at w = -1. A pole and its
conjugate share one denominator,

    D = (i s - c a)(i s - c conj a) = c^2 beta - s^2 - 2 i s c alpha,    alpha = Re a,  beta = |a|^2,
    v / (i s - c a) + conj v / (i s - c conj a) = (i s p + c q) / D,     p = 2 Re v,    q = -2 Re(v conj a),

so all sums of the Woodbury formula over the same poles share 1 / D.

Letters as in dispatch.py; J = (K + R)(1 + R) sums, row by row over (C, P*) x (B, P).
"""

import math

import torch
from torch import Tensor


def pole_coefficients(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """alpha (H, N), beta (H, N), p (J, H, N), q (J, H, N); p and q contain the factor dt/2 of B and of P P*."""
    half = dt[:, None] / 2
    a = half * A
    root = half.sqrt()
    left = torch.cat([C, P.conj() * root])
    right = torch.cat([(half * B)[None], P * root])
    v = (left[:, None] * right).flatten(0, 1)
    return a.real, a.real**2 + a.imag**2, 2 * v.real, -2 * (v.real * a.real + v.imag * a.imag)


def nodes(L: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """s, c (F,) at theta = 2 pi k / L, rounded once from float64; c is exactly 0 at the Nyquist frequency."""
    half_angle = torch.arange(L // 2 + 1, dtype=torch.float64, device=device) * (math.pi / L)
    c = half_angle.cos()
    if L % 2 == 0:
        c[-1] = 0
    return half_angle.sin().to(dtype), c.to(dtype)


def expand_copies(x: Tensor, H: int) -> Tensor:
    """(..., S, N) -> (..., H, N): feature h gets copy h mod S."""
    S = x.shape[-2]
    return x if S == H else x.unsqueeze(-3).expand(*x.shape[:-2], H // S, *x.shape[-2:]).flatten(-3, -2)
