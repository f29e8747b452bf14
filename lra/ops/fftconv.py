"""Long convolution by FFT, causal or two-sided.

`convolve_by_fft` and its gradient define it, in any precision and on any device. In float32 on a CPU, C++ loops
(fftconv_cpp.py) are two to ten times as fast and take its place.

B batch, H features, L input length, M kernel length, n length of the transform.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lra.ops import fftconv_cpp
from lra.ops.autograd_function import Function, Gradient, call_for_each, leading_batch, operator
from lra.ops.precision import at_least_float32, without_autocast

# numbers in one padded block of the batch: small enough for a CPU's cache, and on a GPU small enough that a layer's
# gated output takes more memory than the transforms
BLOCK = {"cpu": 2**21}
LARGE_BLOCK = 2**23

_loops_allowed = True


def long_conv(u: Tensor, kernel: Tensor, D: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Convolve every feature with its own kernel, and add the skip D u.

    y[l] = sum_{j <= l} k_0[l - j] u[j] + sum_{j > l} k_1[j - l - 1] u[j] + D u[l]; the second sum only if K is 2.

    u        (B, H, L) in any layout and floating precision; computed in the kernel's precision, at least float32
    kernel   (K, H, M) real, K 1 (causal) or 2 (two-sided); values past L are not used
    D        (H,) real, or None
    mask     (B, L) bool, or None; u counts as zero where it is False
    returns  (B, H, L) in the layout and precision of u
    raises   ValueError if kernel and u do not fit
    """
    if len(kernel) not in (1, 2) or kernel.shape[1] != u.shape[1]:
        raise ValueError(
            f"kernel {tuple(kernel.shape)} does not fit input {tuple(u.shape)}: expected (1 or 2, H, M) and (B, H, L)"
        )
    kernel, D = at_least_float32(kernel), None if D is None else at_least_float32(D)
    if torch.compiler.is_compiling():
        return long_conv_op(u, kernel, D, mask)
    with without_autocast(u.device):
        return LongConvFunction.apply(u, kernel, D, mask)


def convolve(u: Tensor, kernel: Tensor, D: Tensor | None, mask: Tensor | None) -> Tensor:
    """`long_conv` without gradient."""
    return (fftconv_cpp.convolve if runs_compiled(u, kernel) else convolve_by_fft)(u, kernel, D, mask)


def convolve_backward(
    dy: Tensor, u: Tensor, kernel: Tensor, D: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of u, kernel and D (also if D is None)."""
    gradient = fftconv_cpp.convolve_backward if runs_compiled(u, kernel) else convolve_backward_by_fft
    return gradient(dy, u, kernel, D, mask)


def runs_compiled(u: Tensor, kernel: Tensor) -> bool:
    """True where the C++ loops are used; warns once if there is no compiler for them."""
    if not _loops_allowed or u.device.type != "cpu" or kernel.dtype != torch.float32 or not u.numel():
        return False
    return has_loops() and fftconv_cpp.suits(u.shape[1])


@functools.cache
def has_loops() -> bool:
    if reason := fftconv_cpp.unavailable_reason():
        warnings.warn(f"long convolutions use PyTorch's slower Fourier transforms ({reason})", stacklevel=2)
    return reason is None


@contextmanager
def only_torch() -> Iterator[None]:
    """Within it no C++ loops run, so that PyTorch sees every operation."""
    global _loops_allowed
    before, _loops_allowed = _loops_allowed, False
    try:
        yield
    finally:
        _loops_allowed = before


def convolve_by_fft(u: Tensor, kernel: Tensor, D: Tensor | None, mask: Tensor | None) -> Tensor:
    """See `convolve`. The skip D is added to the kernel at offset zero: no extra pass over u."""
    L, n = u.shape[-1], transform_length(u.shape[-1], kernel)
    k_f, y = torch.fft.rfft(circular_kernel(kernel, D, L, n)), torch.empty_like(u)
    transform = PaddedFFT(u, n, kernel.dtype)
    for rows in transform.blocks:
        u_f = transform(u, rows, mask)
        y[rows] = torch.fft.irfft(u_f.mul_(k_f), n=n)[..., :L]
    return y


def convolve_backward_by_fft(
    dy: Tensor, u: Tensor, kernel: Tensor, D: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See `convolve_backward`."""
    L, n = u.shape[-1], transform_length(u.shape[-1], kernel)
    k_f, du = torch.fft.rfft(circular_kernel(kernel, D, L, n)).conj_physical_(), torch.empty_like(u)
    dk_f = torch.zeros_like(k_f)
    transform = PaddedFFT(u, n, kernel.dtype)
    for rows in transform.blocks:
        dy_f, u_f = transform(dy, rows), transform(u, rows, mask)
        dk_f += u_f.conj_physical_().mul_(dy_f).sum(0)
        del u_f
        g = torch.fft.irfft(dy_f.mul_(k_f), n=n)[..., :L]
        du[rows] = g if mask is None else g.mul_(mask[rows, None])
    circular = torch.fft.irfft(dk_f, n=n)
    return du, kernel_gradient(circular, kernel, L), circular[:, 0].clone()


def vmap_rule(function: Callable[..., Tensor], info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    """Joins u's two batches in one call if only u and mask are batched; one call for each element otherwise."""
    u, kernel, D, mask = args
    if in_dims[1] is not None or in_dims[2] is not None:
        return call_for_each(function, info.batch_size, in_dims, args)
    u = leading_batch(u, in_dims[0], info.batch_size)
    if mask is not None:
        mask = leading_batch(mask, in_dims[3], info.batch_size).flatten(0, 1)
    y = function(u.flatten(0, 1), kernel, D, mask)
    return y.unflatten(0, u.shape[:2]), 0


def backward_with(gradient: Callable[..., Any], ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of the four arguments; `gradient` is convolve_backward in one of its forms."""
    du, dk, dD = gradient(dy, *ctx.saved_tensors)
    return du, dk, None if ctx.saved_tensors[2] is None else dD, None


class LongConvFunction(Function):
    """Saves its arguments but no spectra, which are two to four times their size; the backward transforms again."""

    @staticmethod
    def forward(u: Tensor, kernel: Tensor, D: Tensor | None, mask: Tensor | None) -> Tensor:
        return convolve(u, kernel, D, mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return backward_with(LongConvGradient.apply, ctx, dy)

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return vmap_rule(cls.apply, info, in_dims, *args)


class LongConvGradient(Gradient):
    name = "long_conv"
    forward = staticmethod(convolve_backward)


# torch.compile and torch.export see one operator instead of transforms and complex numbers, which they cannot fuse
@operator("lra::long_conv")
def long_conv_op(u: Tensor, kernel: Tensor, D: Tensor | None, mask: Tensor | None) -> Tensor:
    with without_autocast(u.device):
        return convolve(u, kernel, D, mask)


@operator("lra::long_conv_backward")
def long_conv_backward_op(
    dy: Tensor, u: Tensor, kernel: Tensor, D: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    with without_autocast(u.device):
        return convolve_backward(dy, u, kernel, D, mask)


long_conv_op.register_fake(lambda u, kernel, D, mask: torch.empty_like(u))
long_conv_op.register_autograd(
    lambda ctx, dy: backward_with(long_conv_backward_op, ctx, dy),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)
long_conv_op.register_vmap(lambda info, in_dims, *args: vmap_rule(long_conv_op, info, in_dims, *args))
long_conv_backward_op.register_fake(
    lambda dy, u, kernel, D, mask: (torch.empty_like(u), torch.empty_like(kernel), kernel.new_empty(kernel.shape[1]))
)
long_conv_backward_op.register_vmap(
    lambda info, in_dims, *args: call_for_each(long_conv_backward_op, info.batch_size, in_dims, args)
)


class PaddedFFT:
    """Masked and zero-padded FFT of blocks of the batch, through one reused buffer."""

    def __init__(self, u: Tensor, n: int, dtype: torch.dtype):
        B, H, L = u.shape
        count = max(1, min(B, BLOCK.get(u.device.type, LARGE_BLOCK) // (H * n)))
        self.blocks = [slice(start, start + count) for start in range(0, B, count)]
        self.buffer = u.new_zeros(count, H, n, dtype=dtype)
        self.L = L

    def __call__(self, x: Tensor, rows: slice, mask: Tensor | None = None) -> Tensor:
        """Spectrum of x[rows]: (b, H, n // 2 + 1), a new tensor."""
        x = x[rows]
        buffer = self.buffer[: len(x)]
        if mask is None:
            buffer[..., : self.L] = x
        else:
            torch.mul(x, mask[rows, None], out=buffer[..., : self.L])
        return torch.fft.rfft(buffer)


def circular_kernel(kernel: Tensor, D: Tensor | None, L: int, n: int) -> Tensor:
    """Kernel (H, n) of the circular convolution: k_0 at 0, 1, ..., k_1 at -1, -2, ..., and D added at 0."""
    circular = kernel.new_zeros(kernel.shape[1], n)
    circular[:, : min(L, kernel.shape[-1])] = kernel[0, :, :L]
    if len(kernel) == 2:
        back = kernel[1, :, : L - 1]
        circular[:, n - back.shape[-1] :] = back.flip(-1)
    if D is not None:
        circular[:, 0] += D
    return circular


def kernel_gradient(circular: Tensor, kernel: Tensor, L: int) -> Tensor:
    """Gradient of the kernel (K, H, M) from that of the circular kernel (H, n)."""
    grad = torch.zeros_like(kernel)
    M, n = kernel.shape[-1], circular.shape[-1]
    grad[0, :, :L] = circular[:, : min(L, M)]
    if len(kernel) == 2:
        back = min(L - 1, M)
        grad[1, :, :back] = circular[:, n - back :].flip(-1)
    return grad


def transform_length(L: int, kernel: Tensor) -> int:
    """Smallest fast length at which the first L values of the circular convolution equal those of the linear one."""
    M = min(L, kernel.shape[-1])
    # offsets reach from -min(M, L - 1), since k_1 starts at offset -1, to M - 1
    return fast_length(L + (M - 1 if len(kernel) == 1 else min(M, L - 1)))


def fast_length(n: int) -> int:
    """Smallest even 2^a 3^b 5^c 7^d that is at least n; FFT libraries are fast at such lengths."""
    n = max(2, n + n % 2)
    while True:
        m = n
        for prime in (2, 3, 5, 7):
            while m % prime == 0:
                m //= prime
        if m == 1:
            return n
        n += 2
