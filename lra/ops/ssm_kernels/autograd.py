"""Autograd nodes around the fused backends: from the parameters to the spectrum, or straight to the kernel.

A fused kernel takes a tenth of a millisecond, so a dozen small autograd nodes around it (exponentials, real and
imaginary parts, the inverse transform) would cost more than it does. A fused backend is a module with two functions
outside autograd,

    spectrum(L, dt, A, B, C, P) -> (K, H, F, 2)
    spectrum_gradients(L, grad, dt, A, B, C, P) -> gradients of dt, A, B, C, P

on contiguous tensors of one precision, complex numbers as a last axis of 2, K = 1 or 2. Other shapes are those of
lra.ops.ssm_kernels.dispatch.nplr_spectrum.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def is_fused(backend: ModuleType) -> bool:
    return hasattr(backend, "spectrum_gradients")


def nplr_spectrum(backend: ModuleType, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor, L: int) -> Tensor:
    """See lra.ops.ssm_kernels.dispatch.nplr_spectrum; computes two outputs at a time."""
    outputs = [NplrSpectrum.apply(backend, L, dt, A, B, C_pair, P) for C_pair in C.split(2)]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class NplrSpectrum(torch.autograd.Function):
    """dt (H,), complex A, B (S, N), C (K, H, N), P (R, S, N) -> spectrum (K, H, F); K is 1 or 2."""

    @staticmethod
    def forward(ctx: Any, backend: ModuleType, L: int, dt: Tensor, *others: Tensor) -> Tensor:
        ctx.backend, ctx.L = backend, L
        ctx.save_for_backward(dt.contiguous(), *(as_real_pairs(x.to(dt.dtype.to_complex())) for x in others))
        return torch.view_as_complex(backend.spectrum(L, *ctx.to_save))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_dt, *pairs = ctx.backend.spectrum_gradients(ctx.L, as_real_pairs(grad), *ctx.saved_tensors)
        return None, None, d_dt, *map(torch.view_as_complex, pairs)


class NplrKernel(torch.autograd.Function):
    """Parameters of lra.ops.ssm_kernels.dispatch.nplr_kernel -> kernel (K, H, L); K is 1 or 2."""

    @staticmethod
    def forward(
        ctx: Any, backend: ModuleType, L: int, log_dt: Tensor, log_decay: Tensor, imag: Tensor, *pairs: Tensor
    ) -> Tensor:
        ctx.backend, ctx.L = backend, L
        A = torch.stack([-log_decay.exp(), imag], -1)
        ctx.save_for_backward(log_dt.exp(), A, *(x.contiguous() for x in pairs))
        return torch.fft.irfft(torch.view_as_complex(backend.spectrum(L, *ctx.to_save)), n=L)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # transpose of irfft: a frequency that also represents its conjugate counts twice
        grad = torch.fft.rfft(grad, norm="forward")
        grad[..., 1 : (ctx.L + 1) // 2].mul_(2)
        dt, A, *others = ctx.saved_tensors
        d_dt, dA, dB, dC, dP = ctx.backend.spectrum_gradients(ctx.L, torch.view_as_real(grad), dt, A, *others)
        return None, None, d_dt * dt, dA[..., 0] * A[..., 0], dA[..., 1], dB, dC, dP


def as_real_pairs(x: Tensor) -> Tensor:
    """Complex (...) as contiguous real (..., 2)."""
    return torch.view_as_real(x.resolve_conj().resolve_neg().contiguous())
