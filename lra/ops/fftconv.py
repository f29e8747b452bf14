"""Long convolution by FFT, causal or two-sided, with the padding it needs and no more.

B batch, H features, L length, n the length of the transform.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# floats of one padded block of the batch: small enough that a layer holds more in its gated output than in transforms
# here, and for a CPU's cache
BLOCK = {"cpu": 2**21}
LARGE_BLOCK = 2**23


@torch.compiler.disable  # transforms and complex numbers: nothing that torch.compile could put together
def long_conv(u: Tensor, kernel: Tensor, D: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Convolution of every feature with its own kernel, plus the skip D u.

    y[l] = sum_{j <= l} k_0[l - j] u[j] + sum_{j > l} k_1[j - l - 1] u[j] + D u[l]; the second sum only if K is 2.

    u        (B, H, L) in any layout and floating precision; transforms run in the kernel's precision
    kernel   (K, H, M) real, K 1 (causal) or 2 (two-sided); taps past L are not used
    D        (H,) real, or None
    mask     (B, L) bool, or None; u counts as zero where it is False
    returns  (B, H, L) in the layout and precision of u
    """
    if len(kernel) not in (1, 2) or kernel.shape[1] != u.shape[1]:
        raise ValueError(
            f"kernel {tuple(kernel.shape)} for input {tuple(u.shape)}: (1 or 2, H, M), (B, H, L) are needed"
        )
    with torch.autocast(u.device.type, enabled=False):
        return LongConvFunction.apply(u, kernel, D, mask)


class LongConvFunction(torch.autograd.Function):
    """Keeps its arguments and no spectrum, which would be two to four times their size; the backward transforms again.

    The skip is part of the kernel's tap at offset zero: it costs no pass over u of its own.
    """

    @staticmethod
    def forward(ctx, u: Tensor, kernel: Tensor, D: Tensor | None, mask: Tensor | None) -> Tensor:
        ctx.save_for_backward(u, kernel, D, mask)
        L, n = u.shape[-1], transform_length(u.shape[-1], kernel)
        k_f, y = spectrum(kernel, D, L, n), torch.empty_like(u)
        transform = Transform(u, n, kernel.dtype)
        for rows in transform.blocks:
            u_f = transform(u, rows, mask)
            y[rows] = torch.fft.irfft(u_f.mul_(k_f), n=n)[..., :L]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        u, kernel, D, mask = ctx.saved_tensors
        L, n = u.shape[-1], transform_length(u.shape[-1], kernel)
        k_f, du = spectrum(kernel, D, L, n).conj_physical_(), torch.empty_like(u)
        dk_f = torch.zeros_like(k_f)
        transform = Transform(u, n, kernel.dtype)
        for rows in transform.blocks:
            dy_f, u_f = transform(dy, rows), transform(u, rows, mask)
            dk_f += u_f.conj_physical_().mul_(dy_f).sum(0)
            del u_f
            g = torch.fft.irfft(dy_f.mul_(k_f), n=n)[..., :L]
            du[rows] = g if mask is None else g.mul_(mask[rows, None])
        taps = torch.fft.irfft(dk_f, n=n)
        return du, unroll(taps, kernel, L), None if D is None else taps[:, 0].clone(), None


class Transform:
    """Masked, padded transforms of blocks of the batch, through one buffer whose padding is written once."""

    def __init__(self, u: Tensor, n: int, dtype: torch.dtype):
        B, H, L = u.shape
        count = max(1, min(B, BLOCK.get(u.device.type, LARGE_BLOCK) // (H * n)))
        self.blocks = [slice(start, start + count) for start in range(0, B, count)]
        self.buffer = u.new_zeros(count, H, n, dtype=dtype)
        self.L = L

    def __call__(self, x: Tensor, rows: slice, mask: Tensor | None = None) -> Tensor:
        """(b, H, n // 2 + 1), fresh memory."""
        x = x[rows]
        buffer = self.buffer[: len(x)]
        if mask is None:
            buffer[..., : self.L] = x
        else:
            torch.mul(x, mask[rows, None], out=buffer[..., : self.L])
        return torch.fft.rfft(buffer)


def spectrum(kernel: Tensor, D: Tensor | None, L: int, n: int) -> Tensor:
    """Transform (H, n // 2 + 1) of the circular kernel."""
    return torch.fft.rfft(circular(kernel, D, L, n))


def circular(kernel: Tensor, D: Tensor | None, L: int, n: int) -> Tensor:
    """The kernel around a circle of n positions (H, n): k_0 at 0, 1, ..., k_1 at -1, -2, ..., and D at 0."""
    taps = kernel.new_zeros(kernel.shape[1], n)
    taps[:, : min(L, kernel.shape[-1])] = kernel[0, :, :L]
    if len(kernel) == 2:
        back = kernel[1, :, : L - 1]
        taps[:, n - back.shape[-1] :] = back.flip(-1)
    if D is not None:
        taps[:, 0] += D
    return taps


def unroll(taps: Tensor, kernel: Tensor, L: int) -> Tensor:
    """Gradient of the kernel (K, H, M) from that of the circular one (H, n): the transpose of the layout above."""
    grad = torch.zeros_like(kernel)
    M, n = kernel.shape[-1], taps.shape[-1]
    grad[0, :, :L] = taps[:, : min(L, M)]
    if len(kernel) == 2:
        back = min(L - 1, M)
        grad[1, :, :back] = taps[:, n - back :].flip(-1)
    return grad


def transform_length(L: int, kernel: Tensor) -> int:
    """The least fast length at which the first L results of the circular convolution are those of the linear one."""
    M = min(L, kernel.shape[-1])
    # a kernel from the right starts one position away: offsets -min(M, L - 1) ... M - 1 over L positions
    return fast_length(L + (M - 1 if len(kernel) == 1 else min(M, L - 1)))


def fast_length(n: int) -> int:
    """The least even 2^a 3^b 5^c 7^d that is at least n: lengths for which every FFT library has a short plan."""
    n = max(2, n + n % 2)
    while True:
        m = n
        for prime in (2, 3, 5, 7):
            while m % prime == 0:
                m //= prime
        if m == 1:
            return n
        n += 2
