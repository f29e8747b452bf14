"""Backend "triton": fused kernels from parameters to spectrum; nothing of size (H, N, F) or (J, H, F) is in memory.

Forward: a program has one feature and a block of frequencies. It loops over the poles, keeps the sums of `resolvent.py`
in registers, and applies the Woodbury formula. Backward: a first kernel recomputes the sums and stores x = W^-1 P* D B
and z, the gradient of P* D B; the gradients of all sums are products of x, z and the incoming gradient. In a second
kernel, a program has one feature and a few poles, and loops over the frequencies. There are no atomics, so results are
deterministic. Diagonal systems use the same scheme. The kernels are in cauchy.py and vandermonde.py; this file calls
them.

One or two outputs at a time, rank 0 or 1. TRITON_INTERPRET=1 runs the same code on a CPU, for tests.
"""

import functools
import os
from typing import Any

import torch
import triton
from torch import Tensor

from lra.ops.autograd_function import Function, Gradient
from lra.ops.ssm_kernels.reference import discretise
from lra.ops.ssm_kernels.resolvent import nodes
from lra.ops.ssm_kernels.triton.cauchy import reduce_frequencies, spectrum_forward, woodbury_backward
from lra.ops.ssm_kernels.triton.vandermonde import powers_backward, powers_forward

# block sizes of a program: SUMS where it loops over poles, REDUCE where it loops over frequencies
SUMS = {"BLOCK": 256, "num_warps": 4}
REDUCE = {"POLES": 4, "BLOCK": 64, "num_warps": 4}
cached_nodes = functools.lru_cache(maxsize=32)(nodes)


def interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def unavailable_reason(device: torch.device, dtype: torch.dtype, rank: int = 1) -> str | None:
    """Why the fused kernels cannot run, or None."""
    if dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, not in {str(dtype).removeprefix('torch.')}"
    if rank > 1:
        return f"it supports ranks 0 and 1, not {rank}"
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return "PyTorch sees no CUDA device"
        if torch.version.hip is None and torch.cuda.get_device_capability(device) < (7, 0):
            return "it needs a device of compute capability 7.0 or later"
        return None
    if device.type == "cpu" and interpreted():
        return None
    return f"it runs on cuda, not on {device.type} (TRITON_INTERPRET=1 interprets it, slowly)"


def diagonal_kernel(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, L: int, discretization: str) -> Tensor:
    """See lra.ops.ssm_kernels.dispatch.diagonal_kernel; powers of the poles are recomputed where they are summed."""
    weight, exponent = discretise(dt, A, B, C, discretization)
    weight = torch.view_as_real(weight.resolve_conj()).contiguous()
    exponent = torch.view_as_real(exponent).contiguous()
    outputs = [DiagonalKernel.apply(pair, exponent, L) for pair in weight.split(2)]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def spectrum(L: int, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor) -> Tensor:
    """See lra.ops.ssm_kernels.autograd."""
    s, c = cached_nodes(L, dt.dtype, dt.device)
    (S, N), (K, H), n_freq = A.shape[:2], C.shape[:2], len(s)
    out = C.new_empty(K, H, n_freq, 2)
    grid = (H, triton.cdiv(n_freq, SUMS["BLOCK"]))
    spectrum_forward[grid](dt, A, B, C, first_column(P, A), s, c, out, H, S, N, n_freq, K=K, **SUMS)
    return out


def spectrum_gradients(
    L: int, grad: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See lra.ops.ssm_kernels.autograd."""
    s, c = cached_nodes(L, dt.dtype, dt.device)
    (S, N), (K, H), n_freq = A.shape[:2], C.shape[:2], len(s)
    inputs, sizes = (dt, A, B, C, first_column(P, A), s, c, grad), (H, S, N, n_freq)
    x, z = A.new_empty(2, H, n_freq, 2)
    woodbury_backward[(H, triton.cdiv(n_freq, SUMS["BLOCK"]))](*inputs, x, z, *sizes, K=K, **SUMS)
    d_dt, dC, tied = A.new_empty(H, N), torch.empty_like(C), A.new_empty(3, H, N, 2)
    dA, dB, dP = tied
    grid = (H, triton.cdiv(N, REDUCE["POLES"]))
    reduce_frequencies[grid](*inputs, x, z, d_dt, dA, dB, dC, dP, *sizes, K=K, **REDUCE)
    if S < H:
        dA, dB, dP = tied.view(3, H // S, S, N, 2).sum(1)
    return d_dt.sum(1), dA, dB, dC, dP[None] if len(P) else P


def first_column(P: Tensor, A: Tensor) -> Tensor:
    """P (R, S, N, 2) of rank 1 or 0 as (S, N, 2), zero for rank 0."""
    return P[0] if len(P) else torch.zeros_like(A)


class DiagonalKernel(Function):
    """weight (K, H, N, 2), exponent (H, N, 2) -> 2 Re sum_n weight_n exp(l exponent_n), (K, H, L); K is 1 or 2."""

    @staticmethod
    def forward(weight: Tensor, exponent: Tensor, L: int) -> Tensor:
        K, H, N = weight.shape[:3]
        weight, exponent = weight.contiguous(), exponent.contiguous()
        out = torch.empty(K, H, L, device=weight.device, dtype=weight.dtype)
        powers_forward[(H, triton.cdiv(L, SUMS["BLOCK"]))](weight, exponent, out, H, N, L, K=K, **SUMS)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *DiagonalKernelGradient.apply(grad, *ctx.saved_tensors), None


class DiagonalKernelGradient(Gradient):
    name = "diagonal_kernel"

    @staticmethod
    def forward(grad: Tensor, weight: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
        K, H, N = weight.shape[:3]
        grad, weight, exponent = grad.contiguous(), weight.contiguous(), exponent.contiguous()
        d_weight, d_exponent = torch.empty_like(weight), torch.empty_like(exponent)
        grid = (H, triton.cdiv(N, REDUCE["POLES"]))
        powers_backward[grid](weight, exponent, grad, d_weight, d_exponent, H, N, grad.shape[-1], K=K, **REDUCE)
        return d_weight, d_exponent
