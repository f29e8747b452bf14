"""Triton kernels for diagonal systems, sums of powers of the poles, and their gradients; see backend.py."""

import triton
import triton.language as tl

from lra.ops.ssm_kernels.triton.complex import load2, mul, store2


@triton.jit
def powers(z_re, z_im, x):
    """exp(x z) for real x."""
    size = tl.exp(z_re * x)
    return size * tl.cos(z_im * x), size * tl.sin(z_im * x)


@triton.jit
def powers_forward(weight, exponent, out, H, N, L, K: tl.constexpr, BLOCK: tl.constexpr):
    h = tl.program_id(0)
    l = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = l.to(out.dtype.element_ty)
    y0, y1 = x * 0, x * 0
    for n in range(N):
        o = 2 * (h * N + n)
        e_re, e_im = powers(tl.load(exponent + o), tl.load(exponent + o + 1), x)
        y0 += tl.load(weight + o) * e_re - tl.load(weight + o + 1) * e_im
        if K == 2:
            o += 2 * H * N
            y1 += tl.load(weight + o) * e_re - tl.load(weight + o + 1) * e_im
    tl.store(out + h * L + l, 2 * y0, mask=l < L)
    if K == 2:
        tl.store(out + (H + h) * L + l, 2 * y1, mask=l < L)


@triton.jit
def powers_backward(
    weight, exponent, grad, d_weight, d_exponent, H, N, L,
    K: tl.constexpr, POLES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients 2 sum_l g conj(e) of a weight and 2 sum_l l conj(sum_k g_k w_k e) of z, with e = exp(l z)."""
    h = tl.program_id(0)
    n = tl.program_id(1) * POLES + tl.arange(0, POLES)
    own = n < N
    o = 2 * (h * N + n)
    z_re, z_im = load2(exponent, o, own)
    w0_re, w0_im = load2(weight, o, own)
    w1_re, w1_im = load2(weight, 2 * H * N + o, n < N * (K - 1))
    zero = tl.zeros([POLES, BLOCK], dtype=grad.dtype.element_ty)
    d0_re, d0_im, d1_re, d1_im, dz_re, dz_im = zero, zero, zero, zero, zero, zero
    for start in range(0, L, BLOCK):
        l = start + tl.arange(0, BLOCK)
        x = l.to(grad.dtype.element_ty)[None, :]
        e_re, e_im = powers(z_re[:, None], z_im[:, None], x)
        g = 2 * tl.load(grad + h * L + l, mask=l < L, other=0.0)[None, :]
        d0_re += g * e_re
        d0_im -= g * e_im
        s_re, s_im = g * w0_re[:, None], g * w0_im[:, None]
        if K == 2:
            g = 2 * tl.load(grad + (H + h) * L + l, mask=l < L, other=0.0)[None, :]
            d1_re += g * e_re
            d1_im -= g * e_im
            s_re += g * w1_re[:, None]
            s_im += g * w1_im[:, None]
        s_re, s_im = mul(s_re, s_im, e_re, e_im)
        dz_re += x * s_re
        dz_im -= x * s_im
    store2(d_weight, o, own, tl.sum(d0_re, 1), tl.sum(d0_im, 1))
    if K == 2:
        store2(d_weight, 2 * H * N + o, own, tl.sum(d1_re, 1), tl.sum(d1_im, 1))
    store2(d_exponent, o, own, tl.sum(dz_re, 1), tl.sum(dz_im, 1))
