"""Long convolution and real FFT in C++ (csrc/fftconv.cpp), for float32 on the CPU.

`lra.ops.fftconv.convolve_by_fft` defines the convolution, torch.fft the transform.

A vector of features is transformed at a time, as a polynomial modulo x^(2 M) - 1 that is reduced to smaller and smaller
moduli. Padding, transforms, product, skip and mask stay in the cache. No spectrum of the batch is stored: the kernel's
gradient is summed row by row. Letters as in fftconv.py.
"""

import ctypes
import functools
import math

import torch
from torch import Tensor

from lra.ops.cpp_library import library


@functools.cache
def unavailable_reason() -> str | None:
    """Why the loops cannot run, or None; the first call builds them."""
    try:
        library("fftconv")
    except RuntimeError as error:
        return str(error)
    return None


def suits(H: int) -> bool:
    """Whether H features fill the vectors well enough to gain."""
    return ctypes.c_int.in_dll(library("fftconv"), "lanes").value <= 4 * H


class Array(ctypes.Structure):
    """Address and strides of a tensor (B, H, L)."""

    _fields_ = [("data", ctypes.c_void_p), *((name, ctypes.c_long) for name in ("row", "feature", "position"))]


class Problem(ctypes.Structure):
    """kernel (K, H, T), D (H,) and mask (B, L), which may be null, the sizes, and the table of square roots."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("kernel", "D", "mask")),
        *((name, ctypes.c_long) for name in ("B", "H", "L", "K", "T", "M")),
        ("table", ctypes.c_void_p),
    ]


def convolve(u: Tensor, kernel: Tensor, D: Tensor | None, mask: Tensor | None) -> Tensor:
    """See lra.ops.fftconv.convolve_by_fft."""
    u_, y = as_array(u), as_array(torch.empty_like(u, dtype=torch.float32))
    call("long_conv", u.shape, kernel, D, mask, [u_, y], [])
    return like(u, y)


def convolve_backward(
    dy: Tensor, u: Tensor, kernel: Tensor, D: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See lra.ops.fftconv.convolve_backward_by_fft."""
    du = as_array(torch.empty_like(u, dtype=torch.float32))
    dkernel = torch.zeros_like(kernel, memory_format=torch.contiguous_format)
    dD = kernel.new_empty(kernel.shape[1])
    call("long_conv_backward", u.shape, kernel, D, mask, [as_array(dy), as_array(u), du], [dkernel, dD])
    return like(u, du), like(kernel, dkernel), dD


def as_array(x: Tensor) -> Tensor:
    """x (B, H, L) in float32; a copy if neither neighbouring features nor neighbouring positions are so in memory."""
    x = x.detach().float()
    return x if 1 in x.stride()[1:] else x.contiguous()


def like(x: Tensor, y: Tensor) -> Tensor:
    """y in the precision and layout of a new tensor like x."""
    out = torch.empty_like(x)
    return y if (y.dtype, y.stride()) == (out.dtype, out.stride()) else out.copy_(y)


def call(
    function: str,
    shape: tuple[int, ...],
    kernel: Tensor,
    D: Tensor | None,
    mask: Tensor | None,
    arrays: list[Tensor],
    outputs: list[Tensor],
) -> None:
    """Call a function of the library with arrays of a shape (B, H, L), and gradients of kernel and D to write."""
    B, H, L = shape
    K, _, T = kernel.shape
    M = half_length(L)
    table = node_table(M)
    inputs = [None if x is None else x.detach().contiguous() for x in (kernel, D, mask)]
    problem = Problem(*(None if x is None else x.data_ptr() for x in inputs), B, H, L, K, T, M, table.data_ptr())
    loops = library("fftconv")
    threads = loops.threads_used(problem, torch.get_num_threads() if B * H * L > 2**14 else 1)
    backward = function == "long_conv_backward"
    size = loops.memory_size
    size.restype = ctypes.c_long
    memory = torch.empty(size(problem, ctypes.c_bool(backward), threads), dtype=torch.float32)
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (*outputs, memory)]
    getattr(loops, function)(problem, *(Array(x.data_ptr(), *x.stride()) for x in arrays), *pointers, threads)


def irfft(spectrum: Tensor, L: int) -> Tensor:
    """torch.fft.irfft of spectrum (..., L // 2 + 1, 2), given as (real, imaginary) pairs, for an L that `is_fast`."""
    signal = spectrum.new_empty(*spectrum.shape[:-2], L)
    transform("inverse_fft", spectrum, signal, L)
    return signal


def irfft_gradient(grad: Tensor) -> Tensor:
    """Gradient of the spectrum (..., L // 2 + 1, 2) from that of the signal (..., L)."""
    L = grad.shape[-1]
    spectrum = grad.new_empty(*grad.shape[:-1], L // 2 + 1, 2)
    transform("inverse_fft_backward", grad, spectrum, L)
    return spectrum


def is_fast(L: int, dtype: torch.dtype) -> bool:
    """Whether `irfft` can transform to this length and precision."""
    return dtype == torch.float32 and L >= 4 and L & (L - 1) == 0


def transform(function: str, source: Tensor, target: Tensor, L: int) -> None:
    """Call a function of the library that transforms rows."""
    M, loops = L // 2, library("fftconv")
    rows = max(source.numel(), target.numel()) // (L + 2)
    lanes = ctypes.c_int.in_dll(loops, "lanes").value
    threads = min(torch.get_num_threads(), -(-rows // lanes)) if rows * L > 2**14 else 1
    memory = source.new_empty(threads * L * lanes)
    source = source.contiguous()
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (source, target, places(M), node_table(M), memory)]
    getattr(loops, function)(*pointers[:2], ctypes.c_long(rows), ctypes.c_long(M), *pointers[2:], threads)


@functools.lru_cache(maxsize=32)
def places(M: int) -> Tensor:
    """Where the tree of x^(2 M) - 1 has frequency f < M: (M, 3) numbers of the real and imaginary part, and a sign.

    Node k = m + j, j < m, a power of two, is root j of x^m - i, with its parts at 2 m + j and 3 m + j. The root is
    exp(i phi), where the signal has the value of frequency -M phi / pi: the conjugate of that of frequency M phi / pi.
    """
    k = torch.arange(1, M)
    m = 2 ** k.double().log2().floor().long()
    f = (node_angles(M)[1:] * (M / math.pi)).round().long() % (2 * M)
    table = torch.zeros(M, 3, dtype=torch.int32)
    columns = [2 * m + k - m, 3 * m + k - m, torch.where(f < M, -1, 1)]
    table[torch.where(f < M, f, 2 * M - f)] = torch.stack(columns, 1).int()
    return table


def half_length(L: int) -> int:
    """M, half the length of the transform: the smallest 2^a, 3 2^a or 5 2^a that is even and at least L."""
    return min(r << max(1, math.ceil(math.log2(L / r))) for r in (1, 3, 5))


@functools.lru_cache(maxsize=32)
def node_table(M: int) -> Tensor:
    """Square roots of the numbers c in the moduli x^m - c, by node of the tree: (nodes, 3, 2).

    Node 1 has c = i = exp(i pi / 2). If c = exp(i phi), the children 2 k and 2 k + 1 have the square roots of c,
    exp(i phi / 2) and its negative. A row has the square roots of the first child's c, of c, and their product.
    """
    roots = node_angles(M & -M)[:, None] * torch.tensor([1 / 4, 1 / 2, 3 / 4], dtype=torch.float64)
    return torch.stack([roots.cos(), roots.sin()], -1).float()


def node_angles(nodes: int) -> Tensor:
    """phi of the nodes of the tree, by number; float64. nodes is a power of two, twice the number of leaves."""
    angle = torch.zeros(max(2, nodes), dtype=torch.float64)
    angle[1] = math.pi / 2
    first = 1
    while 2 * first < nodes:
        level = angle[first : 2 * first] / 2
        angle[2 * first : 4 * first] = torch.stack([level, level + math.pi], 1).flatten()
        first *= 2
    return angle
