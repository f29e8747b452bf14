"""Long convolution by FFT, causal or two-sided, with the padding it needs and no more.

B batch, H features, L length, n the length of the transform.
"""

import torch
from torch import Tensor


def long_conv(u: Tensor, kernel: Tensor, D: Tensor | None = None) -> Tensor:
    """Convolution of every feature with its own kernel, plus the skip D u.

    y[l] = sum_{j <= l} k_0[l - j] u[j] + sum_{j > l} k_1[j - l - 1] u[j] + D u[l]; the second sum only if K is 2.

    u        (B, H, L), any floating precision; transforms run in the kernel's
    kernel   (K, H, M) real, K 1 (causal) or 2 (two-sided); taps past L are not used
    D        (H,) real, or None
    returns  (B, H, L) in the precision of u
    """
    if len(kernel) not in (1, 2) or kernel.shape[1] != u.shape[1]:
        raise ValueError(
            f"kernel {tuple(kernel.shape)} for input {tuple(u.shape)}: (1 or 2, H, M) for (B, H, L) is needed"
        )
    with torch.autocast(u.device.type, enabled=False):
        return LongConv.apply(u, kernel, D)


class LongConv(torch.autograd.Function):
    """Keeps u and the kernel; the backward transforms both again, for their spectra are two to four times their size.

    The skip is part of the kernel's tap at offset zero: it costs no pass over u of its own.
    """

    @staticmethod
    def forward(ctx, u: Tensor, kernel: Tensor, D: Tensor | None) -> Tensor:
        ctx.save_for_backward(u, kernel, D)
        L, n = u.shape[-1], transform_length(u.shape[-1], kernel)
        y_f = torch.fft.rfft(u.to(kernel.dtype), n=n).mul_(spectrum(kernel, D, L, n))
        return torch.fft.irfft(y_f, n=n)[..., :L].to(u.dtype)

    @staticmethod
    def backward(ctx, dy: Tensor):
        u, kernel, D = ctx.saved_tensors
        L, n = u.shape[-1], transform_length(u.shape[-1], kernel)
        dy_f = torch.fft.rfft(dy.to(kernel.dtype), n=n)
        du = dk = dD = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            u_f = torch.fft.rfft(u.to(kernel.dtype), n=n)
            taps = torch.fft.irfft(correlate(u_f, dy_f), n=n)
            dk, dD = unroll(taps, kernel, L), None if D is None else taps[:, 0].clone()
            del u_f
        if ctx.needs_input_grad[0]:
            dy_f.mul_(spectrum(kernel, D, L, n).conj_physical_())
            du = torch.fft.irfft(dy_f, n=n)[..., :L].to(u.dtype)
        return du, dk, dD


def correlate(u_f: Tensor, dy_f: Tensor) -> Tensor:
    """sum_b conj(u_f) dy_f, (H, n // 2 + 1)."""
    return u_f.conj_physical_().mul_(dy_f).sum(0)


def spectrum(kernel: Tensor, D: Tensor | None, L: int, n: int) -> Tensor:
    """Transform (H, n // 2 + 1) of the circular kernel: k_0 at 0, 1, ..., k_1 at -1, -2, ..., and D at 0."""
    taps = kernel.new_zeros(kernel.shape[1], n)
    taps[:, : min(L, kernel.shape[-1])] = kernel[0, :, :L]
    if len(kernel) == 2:
        back = kernel[1, :, : L - 1]
        taps[:, n - back.shape[-1] :] = back.flip(-1)
    if D is not None:
        taps[:, 0] += D
    return torch.fft.rfft(taps)


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
    # a two-sided kernel reaches L - 1 back: offsets -(M' - 1) - 1 ... M - 1 over L positions
    reach = L + M - 1 if len(kernel) == 1 else L + max(M - 1, min(L - 1, kernel.shape[-1]))
    return fast_length(reach)


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
