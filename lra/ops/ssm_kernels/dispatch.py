"""State-space kernels behind one door: one definition, several ways to compute it.

    reference  the definition in plain PyTorch, any precision
    compiled   real arithmetic in C++ loops built on first use, cpu
    keops      the same sums as KeOps reductions, cpu and cuda
    triton     one fused kernel each way, cuda

Each is a module with `diagonal_kernel`, `unavailable_reason(device, dtype) -> str | None` and `nplr_spectrum`, or in its place
what `autograd.py` asks for. "auto" takes the first in the order below that can run and says so when that is the slow
definition; naming a backend raises if it cannot run.

H features, N half the state, K outputs (channels), R rank, L length, F = L // 2 + 1 frequencies.
"""

import warnings
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from lra.ops.ssm_kernels import autograd
from lra.ops.ssm_kernels.resolvent import expand_copies

PACKAGE = "lra.ops.ssm_kernels"
# name -> its module
BACKENDS = {"reference": "reference", "compiled": "cpp", "keops": "keops", "triton": "triton.backend"}
ORDER = {"cuda": ("triton", "keops", "reference"), "cpu": ("compiled", "keops", "reference")}
DISCRETIZATIONS = ("zoh", "bilinear")

# torch.compile stops before and goes on behind: within are foreign loops and complex numbers, of which it makes a dozen
# pieces that gain nothing
opaque = torch.compiler.disable
_backends_used: dict[str, set[str]] = {}


@opaque
def nplr_spectrum(
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    P: Tensor,
    L: int,
    *,
    backend: str = "auto",
    precise: bool = False,
) -> Tensor:
    """Truncated generating function of a normal-plus-low-rank system at the L-th roots of unity.

    S4 (Gu et al. 2022), algorithm 1. The system x' = (diag(A) - P P*) x + B u, y = C x is discretised by the bilinear
    rule with step dt; the state comes in conjugate pairs, of which one is given and both count. With C standing for
    C (I - Ab^L), irfft of the result is the impulse response C Ab^l Bb, l < L.

    dt       real (H,)
    A, B     complex (S, N), S a divisor of H: feature h has copy h mod S; Re A < 0
    C, P     complex (K, H, N), (R, S, N)
    backend  "auto" takes the fastest that can run here; a name insists on it
    precise  there are poles next to the imaginary axis, where float32 keeps nothing of their gradients: sums are taken
             in float64, by the C++ loops only where they must be
    returns  complex (K, H, F), at w_k = exp(-2 pi i k / L); finite also at w = -1
    raises   RuntimeError, with the reason, if the named backend cannot run here; ValueError for an unknown one
    """
    check_shapes(dt.shape, A.shape, B.shape, C.shape, L, P.shape)
    module = take("nplr_spectrum", backend, A.device, dt.dtype, len(P))
    # triton launches on the current device, wherever the tensors are
    with torch.autocast(A.device.type, enabled=False), torch.cuda.device_of(A):
        dtype = C.dtype
        if precise:
            dt, A, B, C, P = in_double(module, dt, A, B, C, P)
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


@opaque
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
    """Impulse response of a normal-plus-low-rank system, irfft of `nplr_spectrum`, of the parameters that are trained.

    log_dt           real (H,)
    log_decay, imag  real (S, N): A = -exp(log_decay) + i imag
    B, C, P          real (S, N, 2), (K, H, N, 2), (R, S, N, 2): complex numbers as pairs
    returns          real (K, H, L); the rest is as in nplr_spectrum
    """
    parameters = (log_dt, log_decay, imag, B, C, P)
    check_shapes(log_dt.shape, log_decay.shape, B.shape[:-1], C.shape[:-1], L, P.shape[:-1])
    module = take("nplr_spectrum", backend, C.device, C.dtype, len(P))
    if not autograd.is_fused(module) or len(C) > 2:
        spectrum = nplr_spectrum(*system_from_parameters(*parameters), L, backend=backend, precise=precise)
        return torch.fft.irfft(spectrum, n=L)
    with torch.autocast(C.device.type, enabled=False), torch.cuda.device_of(C):
        taken = in_double(module, *parameters) if precise else parameters
        return autograd.Taps.apply(module, L, *taken).to(C.dtype)


@opaque
def diagonal_kernel(
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    L: int,
    *,
    discretization: str = "zoh",
    backend: str = "auto",
) -> Tensor:
    """Impulse response of diagonal systems: K[k, h, l] = 2 Re sum_n C[k, h, n] Bb[h, n] Ab[h, n]^l.

    S4D (Gu et al. 2022, arXiv:2206.11893), section 3. Zero-order hold: Ab = exp(dt A), Bb = (Ab - 1) / A B; bilinear:
    Ab = (1 + dt A / 2) / (1 - dt A / 2), Bb = dt / (1 - dt A / 2) B.

    dt              real (H,)
    A, B, C         complex (S, N), (S, N), (K, H, N); one of each conjugate pair; Re A < 0; copies as above
    discretization  "zoh" or "bilinear"
    backend         as in nplr_spectrum
    returns         real (K, H, L)
    """
    check_shapes(dt.shape, A.shape, B.shape, C.shape, L)
    if discretization not in DISCRETIZATIONS:
        raise ValueError(f"discretization {discretization!r} is unknown: use {' or '.join(DISCRETIZATIONS)}")
    module = take("diagonal_kernel", backend, A.device, dt.dtype)
    with torch.autocast(A.device.type, enabled=False), torch.cuda.device_of(A):
        return module.diagonal_kernel(dt, expand_copies(A, len(dt)), expand_copies(B, len(dt)), C, L, discretization)


def unavailable_reason(backend: str, device: torch.device | str, dtype: torch.dtype = torch.float32, rank: int = 1) -> str | None:
    """The reason the backend cannot run on this device, in this (real) precision and rank of P, or None if it can.

    raises  ValueError for a name that is no backend
    """
    if backend not in BACKENDS:
        raise ValueError(f"kernel backend {backend!r} is unknown: use one of auto, {', '.join(BACKENDS)}")
    try:
        module = import_module(f"{PACKAGE}.{BACKENDS[backend]}")
    except ModuleNotFoundError as error:
        # triton has no build for macOS
        return f"the package {error.name} is not installed"
    return module.unavailable_reason(torch.device(device), dtype, rank)


def select_backend(backend: str, device: torch.device | str, dtype: torch.dtype = torch.float32, rank: int = 1) -> str:
    """The backend that will run: the named one, or the first of the device's order that can.

    raises  RuntimeError, with the reason, if the named one cannot run here
    """
    device = torch.device(device)
    if backend != "auto":
        if reason := unavailable_reason(backend, device, dtype, rank):
            raise RuntimeError(f"kernel backend {backend!r} cannot run on {device.type}: {reason}")
        return backend
    if dtype == torch.float64:
        # asked for exactness, not speed, and a compilation in that precision serves nothing else
        return "reference"
    reasons = {}
    for name in ORDER.get(device.type, ("keops", "reference")):
        reason = unavailable_reason(name, device, dtype, rank)
        if reason is None:
            break
        reasons[name] = reason
    if name == "reference" and reasons:
        said = "; ".join(f"{other}: {reason}" for other, reason in reasons.items())
        warnings.warn(f"the S4 kernel runs as the slow reference, for no fast one can run ({said})", stacklevel=3)
    return name


def backends_used() -> dict[str, list[str]]:
    """By function, the backends that have computed something here since `forget`; for the record of a run."""
    return {function: sorted(names) for function, names in _backends_used.items()}


def reset_backends_used() -> None:
    """Let `used` start anew."""
    _backends_used.clear()


def take(function: str, backend: str, device: torch.device, dtype: torch.dtype, rank: int = 1) -> ModuleType:
    name = select_backend(backend, device, dtype, rank)
    _backends_used.setdefault(function, set()).add(name)
    return import_module(f"{PACKAGE}.{BACKENDS[name]}")


def in_double(module: ModuleType, *tensors: Tensor) -> tuple[Tensor, ...]:
    """In float64; but the C++ loops take what they are given and see themselves where they need it."""
    if module.__name__.endswith(".cpp"):
        return tensors
    return tuple(x.to(torch.promote_types(x.dtype, torch.float64)) for x in tensors)


Shape = tuple[int, ...]


def check_shapes(dt: Shape, A: Shape, B: Shape, C: Shape, L: int, P: Shape | None = None) -> None:
    if L < 1:
        raise ValueError(f"a kernel of length {L} is empty: L must be at least 1")
    if dt[0] % A[0] or B != A or C[1:] != (dt[0], A[1]):
        shapes = ", ".join(f"{name} {tuple(x)}" for name, x in (("dt", dt), ("A", A), ("B", B), ("C", C)))
        raise ValueError(f"{shapes}: dt (H,), A (S, N), B (S, N), C (K, H, N) are needed")
    if P is not None and P[1:] != A:
        raise ValueError(f"P has shape {tuple(P)}: (R, S, N) with (S, N) = {tuple(A)} is needed")
