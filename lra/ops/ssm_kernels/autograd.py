"""The fused backends in autograd's graph: one node from the parameters to the spectrum, or on to the taps.

Where a kernel takes a tenth of a millisecond, a dozen nodes around it (exponentials, parts of complex numbers, the
inverse transform) cost more than what they compute. A fused backend is a module of two functions that know no graph,

    spectrum(L, dt, A, B, C, P) -> (K, H, F, 2)
    spectrum_gradients(L, grad, dt, A, B, C, P) -> the gradients of the five

for contiguous tensors of one precision, complex numbers as pairs with a last axis of 2, K 1 or 2; shapes otherwise as
in lra.ops.ssm_kernels.dispatch.nplr_spectrum.
"""

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def is_fused(backend: ModuleType) -> bool:
    return hasattr(backend, "spectrum_gradients")


def nplr_spectrum(backend: ModuleType, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor, L: int) -> Tensor:
    """See lra.ops.ssm_kernels.dispatch.nplr_spectrum; two outputs at a time."""
    outputs = [Spectrum.apply(backend, L, dt, A, B, part, P) for part in C.split(2)]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class Spectrum(torch.autograd.Function):
    """dt (H,); complex A, B (S, N), C (K, H, N), P (R, S, N) -> the spectrum (K, H, F); K is 1 or 2."""

    @staticmethod
    def forward(ctx, backend: ModuleType, L: int, dt: Tensor, *others: Tensor) -> Tensor:
        ctx.backend, ctx.L = backend, L
        ctx.save_for_backward(dt.contiguous(), *(as_pairs(x.to(dt.dtype.to_complex())) for x in others))
        return torch.view_as_complex(backend.spectrum(L, *ctx.to_save))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        d_dt, *pairs = ctx.backend.spectrum_gradients(ctx.L, as_pairs(grad), *ctx.saved_tensors)
        return None, None, d_dt, *map(torch.view_as_complex, pairs)


class Taps(torch.autograd.Function):
    """The parameters of lra.ops.ssm_kernels.dispatch.nplr_kernel -> irfft of the spectrum, (K, H, L); K is 1 or 2."""

    @staticmethod
    def forward(ctx, backend: ModuleType, L: int, log_dt: Tensor, log_decay: Tensor, imag: Tensor, *pairs: Tensor):
        ctx.backend, ctx.L = backend, L
        A = torch.stack([-log_decay.exp(), imag], -1)
        ctx.save_for_backward(log_dt.exp(), A, *(x.contiguous() for x in pairs))
        return torch.fft.irfft(torch.view_as_complex(backend.spectrum(L, *ctx.to_save)), n=L)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        # the transpose of irfft: a frequency that stands for its conjugate, too, counts twice
        grad = torch.fft.rfft(grad, norm="forward")
        grad[..., 1 : (ctx.L + 1) // 2].mul_(2)
        dt, A, *others = ctx.saved_tensors
        d_dt, dA, dB, dC, dP = ctx.backend.spectrum_gradients(ctx.L, torch.view_as_real(grad), dt, A, *others)
        return None, None, d_dt * dt, dA[..., 0] * A[..., 0], dA[..., 1], dB, dC, dP


def as_pairs(x: Tensor) -> Tensor:
    """Complex (...) as real (..., 2), in order of memory."""
    return torch.view_as_real(x.resolve_conj().resolve_neg().contiguous())
