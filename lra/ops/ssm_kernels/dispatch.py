"""State-space convolution kernels: entry points and choice of backend.

    reference  the definition in plain PyTorch, any precision
    compiled   C++ loops in real arithmetic, built on first use; cpu
    keops      the same sums as KeOps reductions; cpu and cuda
    triton     fused Triton kernels; cuda

backend="auto" takes the fastest that can run and warns if that is the slow reference; naming one raises if it cannot
run. A backend is a module with `diagonal_kernel`, `unavailable_reason(device, dtype, rank) -> str | None`, and either
`nplr_spectrum` or the two functions that `autograd.py` wraps.

Letters: H features, N half the state (one pole of each conjugate pair), S independent copies of the system, K outputs
(channels), R rank, L length, F = L // 2 + 1 frequencies.
"""

import warnings
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef

from lra.errors import UserError
from lra.ops.autograd_function import call_for_each, operator
from lra.ops.cpp_library import instruction_set, library
from lra.ops.precision import without_autocast
from lra.ops.ssm_kernels import autograd
from lra.ops.ssm_kernels.resolvent import expand_copies

PACKAGE = "lra.ops.ssm_kernels"
# name -> module
BACKENDS = {"reference": "reference", "compiled": "cpp", "keops": "keops", "triton": "triton.backend"}
# device type -> what "auto" tries, in this order
ORDER = {"cuda": ("triton", "keops", "reference"), "cpu": ("compiled", "keops", "reference")}
DISCRETIZATIONS = ("zoh", "bilinear")

_backends_used: dict[str, set[str]] = {}


def nplr_kernel(
    log_dt: Tensor,
    log_decay: Tensor,
    imag: Tensor,
    B: Tensor,
    C: Tensor,
    P: Tensor,
    L: int,
    *,
    backend: str = "auto",
    precise: bool = False,
) -> Tensor:
    """Impulse response of a normal-plus-low-rank system, from S4's trained parameters: irfft of `nplr_spectrum`.

    log_dt           real (H,); logarithm of the time step
    log_decay, imag  real (S, N); A = -exp(log_decay) + i imag
    B, C, P          real (S, N, 2), (K, H, N, 2), (R, S, N, 2); complex numbers as (real, imaginary) pairs
    L                number of positions
    backend, precise, errors  as in `nplr_spectrum`
    returns          real (K, H, L)
    """
    parameters = (log_dt, log_decay, imag, B, C, P)
    check_shapes(log_dt.shape, log_decay.shape, B.shape[:-1], C.shape[:-1], L, P.shape[:-1])
    if torch.compiler.is_compiling():
        return nplr_kernel_op(*parameters, L, backend, precise)
    return eager_nplr_kernel(*parameters, L, backend, precise)


def eager_nplr_kernel(*arguments: Any) -> Tensor:
    """`nplr_kernel` outside torch.compile; the same arguments in order."""
    *parameters, C, P, L, backend, precise = arguments
    parameters += [C, P]
    module = load_backend("nplr_spectrum", backend, C.device, C.dtype, len(P))
    if not autograd.is_fused(module) or len(C) > 2:
        spectrum = nplr_spectrum(*system_from_parameters(*parameters), L, backend=backend, precise=precise)
        return torch.fft.irfft(spectrum, n=L)
    with without_autocast(C.device), torch.cuda.device_of(C):
        inputs = to_float64(module, *parameters) if precise else parameters
        return autograd.NplrKernel.apply(module, L, *inputs).to(C.dtype)


@torch.compiler.disable  # no layer calls it; torch.compile would cut it into a dozen graphs
def nplr_spectrum(
    dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor, L: int, *, backend: str = "auto", precise: bool = False
) -> Tensor:
    """Truncated generating function of a normal-plus-low-rank system at the L-th roots of unity.

    S4 (Gu et al. 2022, arXiv:2111.00396), algorithm 1. The system x' = (diag(A) - P P*) x + B u, y = C x is discretised
    by the bilinear rule with step dt to (Ab, Bb). Only one pole of each conjugate pair is given; the sum runs over
    both. If C is C (I - Ab^L), irfft of the result is the impulse response C Ab^l Bb, l < L.

    dt       real (H,)
    A, B     complex (S, N), S a divisor of H: feature h uses copy h mod S; Re A < 0
    C, P     complex (K, H, N), (R, S, N)
    backend  "auto" takes the fastest that can run here
    precise  needed where poles lie next to the imaginary axis, since float32 loses their gradients there: computes the
             sums in float64 (the C++ loops only where it matters)
    returns  complex (K, H, F), at w_k = exp(-2 pi i k / L); finite also at w = -1
    raises   RuntimeError, with the reason, if the named backend cannot run here; ValueError for an unknown backend or
             shapes that do not fit
    """
    check_shapes(dt.shape, A.shape, B.shape, C.shape, L, P.shape)
    module = load_backend("nplr_spectrum", backend, A.device, dt.dtype, len(P))
    # Triton launches on the current CUDA device, not on that of the tensors
    with without_autocast(A.device), torch.cuda.device_of(A):
        dtype = C.dtype
        if precise:
            dt, A, B, C, P = to_float64(module, dt, A, B, C, P)
        if autograd.is_fused(module):
            return autograd.nplr_spectrum(module, dt, A, B, C, P, L).to(dtype)
        A, B, P = (expand_copies(x, len(dt)) for x in (A, B, P))
        return module.nplr_spectrum(dt, A, B, C, P, L).to(dtype)


def system_from_parameters(
    log_dt: Tensor, log_decay: Tensor, imag: Tensor, B: Tensor, C: Tensor, P: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dt, A, B, C, P of `nplr_spectrum` from the parameters of `nplr_kernel`."""
    B, C, P = (torch.view_as_complex(x) for x in (B, C, P))
    return log_dt.exp(), torch.complex(-log_decay.exp(), imag), B, C, P


def diagonal_kernel(
    dt: Tensor, A: Tensor, B: Tensor, C: Tensor, L: int, *, discretization: str = "zoh", backend: str = "auto"
) -> Tensor:
    """Impulse response of diagonal systems: K[k, h, l] = 2 Re sum_n C[k, h, n] Bb[h, n] Ab[h, n]^l.

    S4D (Gu et al. 2022, arXiv:2206.11893), section 3. Zero-order hold: Ab = exp(dt A), Bb = (Ab - 1) / A B; bilinear:
    Ab = (1 + dt A / 2) / (1 - dt A / 2), Bb = dt / (1 - dt A / 2) B.

    dt              real (H,)
    A, B, C         complex (S, N), (S, N), (K, H, N); one pole of each conjugate pair; Re A < 0
    discretization  "zoh" or "bilinear"
    returns         real (K, H, L)
    raises          as `nplr_spectrum`
    """
    check_shapes(dt.shape, A.shape, B.shape, C.shape, L)
    if discretization not in DISCRETIZATIONS:
        raise UserError(f"discretization={discretization!r} is unknown", hint=" or ".join(DISCRETIZATIONS))
    arguments = (dt, A, B, C, L, discretization, backend)
    return diagonal_kernel_op(*arguments) if torch.compiler.is_compiling() else eager_diagonal_kernel(*arguments)


def eager_diagonal_kernel(
    dt: Tensor, A: Tensor, B: Tensor, C: Tensor, L: int, discretization: str, backend: str
) -> Tensor:
    """`diagonal_kernel` outside torch.compile."""
    module = load_backend("diagonal_kernel", backend, A.device, dt.dtype)
    with without_autocast(A.device), torch.cuda.device_of(A):
        return module.diagonal_kernel(dt, expand_copies(A, len(dt)), expand_copies(B, len(dt)), C, L, discretization)


# Operators for torch.compile and torch.export, which would cut the kernels into a dozen graphs (foreign code, complex
# numbers). The backward operators recompute the kernel.


@operator("lra::nplr_kernel")
def nplr_kernel_op(
    log_dt: Tensor, log_decay: Tensor, imag: Tensor, B: Tensor, C: Tensor, P: Tensor,
    L: int, backend: str, precise: bool,
) -> Tensor:  # fmt: skip
    return eager_nplr_kernel(log_dt, log_decay, imag, B, C, P, L, backend, precise).contiguous()


@operator("lra::nplr_kernel_backward")
def nplr_kernel_backward_op(
    grad: Tensor, log_dt: Tensor, log_decay: Tensor, imag: Tensor, B: Tensor, C: Tensor, P: Tensor,
    L: int, backend: str, precise: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return gradients(eager_nplr_kernel, grad, (log_dt, log_decay, imag, B, C, P), L, backend, precise)


@operator("lra::diagonal_kernel")
def diagonal_kernel_op(
    dt: Tensor, A: Tensor, B: Tensor, C: Tensor, L: int, discretization: str, backend: str
) -> Tensor:
    return eager_diagonal_kernel(dt, A, B, C, L, discretization, backend).contiguous()


@operator("lra::diagonal_kernel_backward")
def diagonal_kernel_backward_op(
    grad: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, L: int, discretization: str, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return gradients(eager_diagonal_kernel, grad, (dt, A, B, C), L, discretization, backend)


def gradients(kernel: Callable[..., Tensor], grad: Tensor, inputs: tuple[Tensor, ...], *options: Any) -> Any:
    """Gradients of the inputs, by torch.func because autograd is off within an operator."""
    results = torch.func.vjp(lambda *inputs: kernel(*inputs, *options), *inputs)[1](grad)
    # an operator may not return views
    return tuple(x.clone(memory_format=torch.contiguous_format) for x in results)


def register(op: CustomOpDef, backward_op: CustomOpDef, n_inputs: int) -> None:
    """Shapes, gradient and vmap of an operator whose first arguments are tensors, the fourth or fifth of them C."""
    C, L = (4, 6) if n_inputs == 6 else (3, 4)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:n_inputs])
        ctx.options = inputs[n_inputs:]

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *backward_op(grad, *ctx.saved_tensors, *ctx.options), *[None] * len(ctx.options)

    op.register_fake(lambda *inputs: inputs[0].new_empty(*inputs[C].shape[:2], inputs[L]))
    op.register_autograd(backward, setup_context=setup_context)
    backward_op.register_fake(
        lambda grad, *inputs: tuple(
            torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs[:n_inputs]
        )
    )
    for each in (op, backward_op):
        each.register_vmap(
            lambda info, in_dims, *inputs, each=each: call_for_each(each, info.batch_size, in_dims, inputs)
        )


register(nplr_kernel_op, nplr_kernel_backward_op, 6)
register(diagonal_kernel_op, diagonal_kernel_backward_op, 4)


def unavailable_reason(
    backend: str, device: torch.device | str, dtype: torch.dtype = torch.float32, rank: int = 1
) -> str | None:
    """Why the backend cannot run on this device, in this (real) precision and with P of this rank; None if it can.

    raises  ValueError for an unknown backend
    """
    if backend not in BACKENDS:
        raise UserError(f"backend={backend!r} is unknown", hint=f"one of auto, {', '.join(BACKENDS)}")
    try:
        module = import_module(f"{PACKAGE}.{BACKENDS[backend]}")
    except ModuleNotFoundError as error:
        # triton does not exist for macOS
        return f"the package {error.name} is not installed"
    return module.unavailable_reason(torch.device(device), dtype, rank)


def select_backend(backend: str, device: torch.device | str, dtype: torch.dtype = torch.float32, rank: int = 1) -> str:
    """The named backend, or for "auto" the first in the device's order that can run.

    raises  RuntimeError, with the reason, if the named one cannot run here; ValueError for an unknown one
    """
    device = torch.device(device)
    if device.type == "meta" and backend in ("auto", *BACKENDS):
        # only shapes are computed; they do not depend on the backend
        return "reference"
    if backend != "auto":
        if reason := unavailable_reason(backend, device, dtype, rank):
            raise RuntimeError(f"backend={backend!r} cannot run on {device.type}: {reason}; hint: backend=auto")
        return backend
    if dtype == torch.float64:
        # float64 is for exactness, not speed; do not compile a second set of kernels for it
        return "reference"
    reasons = {}
    for name in ORDER.get(device.type, ("keops", "reference")):
        reason = unavailable_reason(name, device, dtype, rank)
        if reason is None:
            break
        reasons[name] = reason
    if name == "reference" and reasons:
        details = "; ".join(f"{other}: {reason}" for other, reason in reasons.items())
        warnings.warn(f"S4 kernels use the slow reference because no fast backend can run ({details})", stacklevel=3)
    return name


def load_backend(function: str, backend: str, device: torch.device, dtype: torch.dtype, rank: int = 1) -> ModuleType:
    """Select the backend, note it for `backends_used`, and import its module."""
    name = select_backend(backend, device, dtype, rank)
    used = f"{name} ({instruction_set(library('fftconv'))})" if name == "compiled" else name
    _backends_used.setdefault(function, set()).add(used)
    return import_module(f"{PACKAGE}.{BACKENDS[name]}")


def backends_used() -> dict[str, list[str]]:
    """Backends that have run since `reset_backends_used`, by function; a run's record states them.

    The C++ loops with their instruction set: "compiled (AVX-512)".
    """
    return {function: sorted(names) for function, names in _backends_used.items()}


def reset_backends_used() -> None:
    _backends_used.clear()


def to_float64(module: ModuleType, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Double the precision, except for the C++ loops, which do so themselves where it matters."""
    if module.__name__.endswith(".cpp"):
        return tensors
    return tuple(x.to(torch.promote_types(x.dtype, torch.float64)) for x in tensors)


Shape = tuple[int, ...]


def check_shapes(dt: Shape, A: Shape, B: Shape, C: Shape, L: int, P: Shape | None = None) -> None:
    """Raise ValueError unless the shapes fit together and L is positive."""
    if L < 1:
        raise ValueError(f"kernel length L={L} must be at least 1")
    if dt[0] % A[0] or B != A or C[1:] != (dt[0], A[1]):
        shapes = ", ".join(f"{name} {tuple(x)}" for name, x in (("dt", dt), ("A", A), ("B", B), ("C", C)))
        raise ValueError(f"shapes do not fit: {shapes}; expected dt (H,), A (S, N), B (S, N), C (K, H, N)")
    if P is not None and P[1:] != A:
        raise ValueError(f"shapes do not fit: P {tuple(P)}; expected (R, S, N) with (S, N) = {tuple(A)}")
