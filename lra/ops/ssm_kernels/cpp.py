"""Backend "compiled": C++ loops (lra/ops/csrc/cauchy.cpp), built on first use; nothing of size (H, N, F) is stored.

One pass over the poles gives all sums and the Woodbury formula. The backward pass recomputes the sums, to avoid storing
J spectra, and reduces over frequencies. Through torch.compile the same formula takes 4 to 8 times as long with vectors
of 64 bytes, 4 to 6 times with 32, and compiles for 20 seconds instead of 2; one build also serves every size.
"""

import ctypes
import functools

import torch
from torch import Tensor

from lra.ops import fftconv_cpp
from lra.ops.cpp_library import library
from lra.ops.ssm_kernels import autograd
from lra.ops.ssm_kernels.reference import discretise
from lra.ops.ssm_kernels.resolvent import expand_copies, nodes

REAL_TYPES = {torch.float32: "float", torch.float64: "double"}


@functools.cache
def unavailable_reason(device: torch.device, dtype: torch.dtype, rank: int = 1) -> str | None:
    """Why the loops cannot run, or None; the first call builds them."""
    if device.type != "cpu":
        return f"it runs on cpu, not on {device.type}"
    if dtype not in REAL_TYPES:
        return f"it computes in float32 and float64, not in {str(dtype).removeprefix('torch.')}"
    if rank > 2:
        return f"it supports ranks 0 to 2, not {rank}"
    try:
        loops(dtype, 1, rank)
    except RuntimeError as error:
        return str(error)
    return None


def spectrum(L: int, *parameters: Tensor) -> Tensor:
    """See lra.ops.ssm_kernels.autograd."""
    C = parameters[3]
    out = C.new_empty(*C.shape[:2], L // 2 + 1, 2)
    run("spectrum", L, without_copies(*parameters), [out])
    return out


def spectrum_gradients(L: int, grad: Tensor, *parameters: Tensor) -> list[Tensor]:
    """See lra.ops.ssm_kernels.autograd."""
    inputs, S = without_copies(*parameters), len(parameters[1])
    gradients = [torch.empty_like(x) for x in inputs]
    run("spectrum_backward", L, inputs, [grad, *gradients])
    if len(inputs[0]) > S:
        for i in (1, 2, 4):
            gradients[i] = gradients[i].unflatten(-3, (-1, S)).sum(-4)
    return gradients


def irfft(spectrum: Tensor, L: int) -> Tensor:
    """See lra.ops.ssm_kernels.autograd."""
    return (fftconv_cpp if fftconv_cpp.is_fast(L, spectrum.dtype) else autograd).irfft(spectrum, L)


def irfft_gradient(grad: Tensor) -> Tensor:
    """See lra.ops.ssm_kernels.autograd."""
    return (fftconv_cpp if fftconv_cpp.is_fast(grad.shape[-1], grad.dtype) else autograd).irfft_gradient(grad)


def without_copies(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor) -> tuple[Tensor, ...]:
    """Expand A, B, P (..., S, N, 2) to (..., H, N, 2), because the loops read one system per feature."""
    copies = (expand_copies(torch.view_as_complex(x), len(dt)).contiguous() for x in (A, B, P))
    A, B, P = map(torch.view_as_real, copies)
    return dt, A, B, C, P


class Parameters(ctypes.Structure):
    """Addresses of dt, A, B, C and P, or of their gradients."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("dt", "A", "B", "C", "P")]


def run(function: str, L: int, inputs: tuple[Tensor, ...], others: list[Tensor]) -> None:
    """Call a function of the library. others: the output, or the incoming gradient and the gradients to write."""
    dt, A, _, C, P = inputs
    (H, N), F = A.shape[:2], L // 2 + 1
    tables = [node_table(L, dt.dtype), node_table(L, torch.float64)]
    # with less work than this, a thread costs more than it saves
    threads = torch.get_num_threads() if H * N * F > 2**16 else 1
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (*tables, others[0])]
    gradients = [Parameters(*(x.data_ptr() for x in others[1:]))] if others[1:] else []
    numbers = [ctypes.c_long(n) for n in (H, N, F, tables[0].shape[1])]
    parameters = Parameters(*(x.data_ptr() for x in inputs))
    call = getattr(loops(dt.dtype, len(C), len(P)), function)
    call(parameters, *pointers, *gradients, *numbers, ctypes.c_int(threads))


@functools.lru_cache(maxsize=32)
def node_table(L: int, dtype: torch.dtype) -> Tensor:
    """s, c, s^2, c^2, -2 s c, each rounded once; (5, F rounded up to 16), padded so that D = -1."""
    s, c = nodes(L, torch.float64, torch.device("cpu"))
    padding = -len(s) % 16
    s, c = torch.nn.functional.pad(s, (0, padding), value=1.0), torch.nn.functional.pad(c, (0, padding))
    return torch.stack([s, c, s * s, c * c, -2 * s * c]).to(dtype)


def loops(dtype: torch.dtype, K: int, R: int) -> ctypes.CDLL:
    """The loops for K outputs and rank R."""
    return library("cauchy", f"REAL={REAL_TYPES[dtype]}", f"OUTPUTS={K}", f"RANK={R}")


def diagonal_kernel(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, L: int, discretization: str) -> Tensor:
    """See lra.ops.ssm_kernels.dispatch.diagonal_kernel. With l = i T + j the sum over poles is a matrix product:

    K[i T + j] = 2 Re sum_n (weight_n Ab_n^(i T)) Ab_n^j, with O(N sqrt L) exponentials instead of N L.
    """
    weight, exponent = discretise(dt, A, B, C, discretization)
    T = 1 << ((L - 1).bit_length() + 1) // 2
    fine = torch.exp(exponent[..., None] * torch.arange(T, device=A.device))  # (H, N, T)
    coarse = torch.exp(exponent[..., None] * torch.arange(0, L, T, device=A.device))  # (H, N, I)
    rows = (2 * weight[..., None] * coarse).permute(1, 0, 3, 2).flatten(1, 2)  # (H, K I, N)
    K = torch.cat([rows.real, -rows.imag], -1) @ torch.cat([fine.real, fine.imag], -2)
    return K.unflatten(1, (len(C), -1)).transpose(0, 1).flatten(2)[..., :L]
