"""Candidate convolution for GPUs, not measured yet: `bench.py convolution --device cuda` compares it with ours.

Two rows of the batch are the real and imaginary part of one complex signal. The kernel is real, so they stay separate,
and the transform skips the extra passes of a real FFT. Copy, padding and mask are one pass each way, the product with
the kernel's spectrum is another; by this count it moves about half as much memory as lra.ops.fftconv. It will replace
that code on CUDA if it is faster, and be removed otherwise.

B batch, H features, L length, n the length of the transform; float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from lra.ops.fftconv import LARGE_BLOCK, circular_kernel, kernel_gradient, transform_length

# block sizes of the copying and of the multiplying kernels
TILE = {"POSITIONS": 64, "FEATURES": 32, "num_warps": 4}
FLAT = {"BLOCK": 512, "num_warps": 4}


@triton.jit
def place(first, B, H, L, POSITIONS: tl.constexpr, FEATURES: tl.constexpr):
    """Positions, features, pair and first row of a program; masks of the elements that exist, for both rows."""
    l = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    h = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    pair = tl.program_id(2)
    row = first + 2 * pair
    inside = (l < L)[None, :] & (h < H)[:, None]
    return l, h, pair, row, inside, inside & (row + 1 < B)


@triton.jit
def real_positions(mask, row, l, B, L):
    """The mask (B, L) of a row at positions l, shape (1, l); False past the last row."""
    return (tl.load(mask + row * L + l, mask=(l < L) & (row < B), other=0) != 0)[None, :]


@triton.jit
def in_pairs(pair, h, l, H, n):
    """Offsets of real and imaginary parts in z (pairs, H, n, 2) at (pair, h, l)."""
    offset = 2 * ((pair.to(tl.int64) * H + h[:, None]) * n + l[None, :])
    return offset[:, :, None] + tl.arange(0, 2)[None, None, :]


@triton.jit
def pack(
    u, mask, z, first, B, H, L, n, uB, uH, uL,
    MASKED: tl.constexpr, POSITIONS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """z[p] = u[first + 2 p] + i u[first + 2 p + 1], zero where masked and past L; u may have any strides."""
    l, h, pair, row, even, odd = place(first, B, H, L, POSITIONS, FEATURES)
    if MASKED:
        even &= real_positions(mask, row, l, B, L)
        odd &= real_positions(mask, row + 1, l, B, L)
    offset = row.to(tl.int64) * uB + h[:, None].to(tl.int64) * uH + l[None, :].to(tl.int64) * uL
    re = tl.load(u + offset, mask=even, other=0.0).to(tl.float32)
    im = tl.load(u + uB + offset, mask=odd, other=0.0).to(tl.float32)
    both = tl.join(re, im)
    fits = (l < n)[None, :] & (h < H)[:, None]
    tl.store(z + in_pairs(pair, h, l, H, n), both, mask=tl.broadcast_to(fits[:, :, None], both.shape))


@triton.jit
def unpack(
    z, mask, y, first, B, H, L, n, yB, yH, yL,
    MASKED: tl.constexpr, POSITIONS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """The transpose of pack."""
    l, h, pair, row, even, odd = place(first, B, H, L, POSITIONS, FEATURES)
    at = in_pairs(pair, h, l, H, n)
    re, im = tl.split(tl.load(z + at, mask=tl.broadcast_to(even[:, :, None], at.shape), other=0.0))
    if MASKED:
        re = tl.where(real_positions(mask, row, l, B, L), re, 0.0)
        im = tl.where(real_positions(mask, row + 1, l, B, L), im, 0.0)
    offset = row.to(tl.int64) * yB + h[:, None].to(tl.int64) * yH + l[None, :].to(tl.int64) * yL
    tl.store(y + offset, re, mask=even)
    tl.store(y + yB + offset, im, mask=odd)


@triton.jit
def numbers(size, BLOCK: tl.constexpr):
    """Offsets of the real and imaginary parts of a program's numbers, and a mask of those that exist."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    offset = 2 * i[:, None] + tl.arange(0, 2)[None, :]
    return offset, offset < 2 * size


@triton.jit
def multiply(z, k, pairs, size, BLOCK: tl.constexpr):
    """z[p] *= k for every pair p; each has `size` complex numbers."""
    at, exists = numbers(size, BLOCK)
    k_re, k_im = tl.split(tl.load(k + at, mask=exists, other=0.0))
    for _ in range(pairs):
        z_re, z_im = tl.split(tl.load(z + at, mask=exists, other=0.0))
        tl.store(z + at, tl.join(z_re * k_re - z_im * k_im, z_re * k_im + z_im * k_re), mask=exists)
        z += 2 * size


@triton.jit
def multiply_backward(u, g, k, d, pairs, size, BLOCK: tl.constexpr):
    """d += sum_p conj(u[p]) g[p], the gradient of k; g[p] *= conj(k)."""
    at, exists = numbers(size, BLOCK)
    k_re, k_im = tl.split(tl.load(k + at, mask=exists, other=0.0))
    d_re, d_im = tl.split(tl.load(d + at, mask=exists, other=0.0))
    for _ in range(pairs):
        u_re, u_im = tl.split(tl.load(u + at, mask=exists, other=0.0))
        g_re, g_im = tl.split(tl.load(g + at, mask=exists, other=0.0))
        d_re += u_re * g_re + u_im * g_im
        d_im += u_re * g_im - u_im * g_re
        tl.store(g + at, tl.join(g_re * k_re + g_im * k_im, g_im * k_re - g_re * k_im), mask=exists)
        u += 2 * size
        g += 2 * size
    tl.store(d + at, tl.join(d_re, d_im), mask=exists)


class Packed(torch.autograd.Function):
    """Same arguments and result as `lra.ops.fftconv.LongConvFunction`."""

    @staticmethod
    def forward(ctx, u: Tensor, kernel: Tensor, D: Tensor | None, mask: Tensor | None) -> Tensor:
        ctx.save_for_backward(u, kernel, D, mask)
        n = transform_length(u.shape[-1], kernel)
        k, y = torch.fft.fft(circular_kernel(kernel, D, u.shape[-1], n)), torch.empty_like(u)
        for first, pairs in blocks(u, n):
            z = torch.fft.fft(packed_rows(u, mask, first, pairs, n))
            multiply[flat(k)](torch.view_as_real(z), torch.view_as_real(k), pairs, k.numel(), **FLAT)
            unpack_rows(torch.fft.ifft(z), None, y, first)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        u, kernel, D, mask = ctx.saved_tensors
        L, n = u.shape[-1], transform_length(u.shape[-1], kernel)
        k, du = torch.fft.fft(circular_kernel(kernel, D, L, n)), torch.empty_like(u)
        d = torch.zeros_like(k)
        for first, pairs in blocks(u, n):
            z, g = (torch.fft.fft(packed_rows(x, m, first, pairs, n)) for x, m in ((u, mask), (dy, None)))
            arrays = (torch.view_as_real(x) for x in (z, g, k, d))
            multiply_backward[flat(k)](*arrays, pairs, k.numel(), **FLAT)
            del z
            unpack_rows(torch.fft.ifft(g), mask, du, first)
        circular = torch.fft.ifft(d).real
        return du, kernel_gradient(circular, kernel, L), None if D is None else circular[:, 0].clone(), None


def blocks(u: Tensor, n: int) -> list[tuple[int, int]]:
    """First row and number of pairs of each block; in an odd batch the last pair has only one row."""
    B, H, _ = u.shape
    most = max(1, LARGE_BLOCK // (2 * H * n))
    return [(first, min(most, (B - first + 1) // 2)) for first in range(0, B, 2 * most)]


def packed_rows(x: Tensor, mask: Tensor | None, first: int, pairs: int, n: int) -> Tensor:
    """Pairs of rows of x as complex signals (pairs, H, n), masked and zero-padded."""
    z = torch.empty(pairs, x.shape[1], n, 2, device=x.device)
    sizes = (first, *x.shape, n, *x.stride())
    pack[tiles(n, x, pairs)](x, x if mask is None else mask, z, *sizes, MASKED=mask is not None, **TILE)
    return torch.view_as_complex(z)


def unpack_rows(z: Tensor, mask: Tensor | None, y: Tensor, first: int) -> None:
    """Write complex signals to rows of y (B, H, L), masked and cut to L."""
    sizes = (first, *y.shape, z.shape[-1], *y.stride())
    parts = torch.view_as_real(z)
    unpack[tiles(y.shape[-1], y, len(z))](
        parts, y if mask is None else mask, y, *sizes, MASKED=mask is not None, **TILE
    )


def tiles(length: int, x: Tensor, pairs: int) -> tuple[int, int, int]:
    return triton.cdiv(length, TILE["POSITIONS"]), triton.cdiv(x.shape[1], TILE["FEATURES"]), pairs


def flat(k: Tensor) -> tuple[int]:
    return (triton.cdiv(k.numel(), FLAT["BLOCK"]),)
