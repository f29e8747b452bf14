"""Autograd nodes around the fused backends: from the parameters to the spectrum, or straight to the kernel.

A fused kernel takes a tenth of a millisecond, so a dozen small autograd nodes around it (exponentials, real and
imaginary parts, the inverse transform) would cost more than it does. A fused backend is a module with two functions
outside autograd,

    spectrum(L, dt, A, B, C, P) -> (K, H, F, 2)
    spectrum_gradients(L, grad, dt, A, B, C, P) -> gradients of dt, A, B, C, P

on contiguous tensors of one precision, complex numbers as a last axis of 2, K = 1 or 2. Other shapes are those of
lra.ops.ssm_kernels.dispatch.nplr_spectrum. It can replace `irfft` and `irfft_gradient` below by functions of its own.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from lra.ops.autograd_function import Function, Gradient


def is_fused(backend: ModuleType) -> bool:
    return hasattr(backend, "spectrum_gradients")


def nplr_spectrum(backend: ModuleType, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor, L: int) -> Tensor:
    """See lra.ops.ssm_kernels.dispatch.nplr_spectrum; computes two outputs at a time."""
    outputs = [NplrSpectrum.apply(backend, L, dt, A, B, C_pair, P) for C_pair in C.split(2)]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class BackendFunction(Function):
    """(backend, L, parameters) -> output; saves the parameters for `gradient`."""

    gradient: type[Gradient]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.backend, ctx.L, *parameters = inputs
        ctx.save_for_backward(*parameters)

    @classmethod
    def backward(cls, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *cls.gradient.apply(ctx.backend, ctx.L, grad, *ctx.saved_tensors)


class NplrSpectrumGradient(Gradient):
    name = "nplr_spectrum"

    @staticmethod
    def forward(backend: ModuleType, L: int, grad: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        arguments = spectrum_arguments(*parameters)
        d_dt, *pairs = backend.spectrum_gradients(L, as_real_pairs(grad), *arguments)
        return d_dt, *map(torch.view_as_complex, pairs)


class NplrSpectrum(BackendFunction):
    """dt (H,), complex A, B (S, N), C (K, H, N), P (R, S, N) -> spectrum (K, H, F); K is 1 or 2."""

    gradient = NplrSpectrumGradient

    @staticmethod
    def forward(backend: ModuleType, L: int, dt: Tensor, *others: Tensor) -> Tensor:
        return torch.view_as_complex(backend.spectrum(L, *spectrum_arguments(dt, *others)))


def spectrum_arguments(dt: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    return dt.contiguous(), *(as_real_pairs(x.to(dt.dtype.to_complex())) for x in others)


class NplrKernelGradient(Gradient):
    name = "nplr_kernel"

    @staticmethod
    def forward(backend: ModuleType, L: int, grad: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        grad = getattr(backend, "irfft_gradient", irfft_gradient)(grad)
        dt, A, *others = kernel_arguments(*parameters)
        d_dt, dA, dB, dC, dP = backend.spectrum_gradients(L, grad, dt, A, *others)
        return d_dt * dt, dA[..., 0] * A[..., 0], dA[..., 1], dB, dC, dP


class NplrKernel(BackendFunction):
    """Parameters of lra.ops.ssm_kernels.dispatch.nplr_kernel -> kernel (K, H, L); K is 1 or 2."""

    gradient = NplrKernelGradient

    @staticmethod
    def forward(backend: ModuleType, L: int, *parameters: Tensor) -> Tensor:
        spectrum = backend.spectrum(L, *kernel_arguments(*parameters))
        return getattr(backend, "irfft", irfft)(spectrum, L)


def irfft(spectrum: Tensor, L: int) -> Tensor:
    """Signal (..., L) of a spectrum (..., F, 2)."""
    return torch.fft.irfft(torch.view_as_complex(spectrum), n=L)


def irfft_gradient(grad: Tensor) -> Tensor:
    """Gradient of the spectrum (..., F, 2) from that of the signal (..., L)."""
    L = grad.shape[-1]
    spectrum = torch.fft.rfft(grad, norm="forward")
    # a frequency that also represents its conjugate counts twice
    spectrum[..., 1 : (L + 1) // 2].mul_(2)
    return torch.view_as_real(spectrum)


def kernel_arguments(log_dt: Tensor, log_decay: Tensor, imag: Tensor, *pairs: Tensor) -> tuple[Tensor, ...]:
    A = torch.stack([-log_decay.exp(), imag], -1)
    return log_dt.exp(), A, *(x.contiguous() for x in pairs)


def as_real_pairs(x: Tensor) -> Tensor:
    """Complex (...) as contiguous real (..., 2)."""
    return torch.view_as_real(x.resolve_conj().resolve_neg().contiguous())
