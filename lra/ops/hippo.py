"""HiPPO matrices, their normal-plus-low-rank form, discretisation, and the dense recurrence that defines the models.

A state x(t) in R^N follows x' = A x + B u and is read by y = C x + D u. HiPPO (Gu et al. 2020, arXiv:2008.07669)
chooses (A, B) so that x(t) holds the coefficients of the history u(t - s), s >= 0, in a basis of orthogonal functions
of the age s. S4 (Gu et al. 2022, arXiv:2111.00396) uses the fact that each such A is a normal matrix minus a low-rank
one.

Everything is float64 except the initial time steps.

Letters: N state, M = ceil(N / 2) conjugate pairs, r rank, L length.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from lra.errors import UserError

MEASURES = ("legs", "legt", "fout", "random", "diagonal")

# real part of all eigenvalues of the normal part, known exactly
REAL_PART = {"legs": -0.5, "legt": 0.0, "fout": 0.0, "random": -0.5, "diagonal": -0.5}


class NPLR(NamedTuple):
    """A = V diag(A) V* - P P* in the basis of eigenvectors V of the normal part, one of each conjugate pair kept.

    A  complex (M,)    eigenvalues of the normal part with imaginary part >= 0, ascending
    P  complex (r, M)  V* times the rank correction
    B  complex (M,)    V* B; the phase of each eigenvector is chosen to make it real and >= 0
    V  complex (N, M)  eigenvectors; a real vector x is 2 Re(V V* x)

    A real quantity is twice the real part of a sum over M. An odd N has one unpaired real eigenvalue: it comes first,
    and its eigenvector is scaled by 1/sqrt(2), so that the factor 2 counts it once.
    """

    A: Tensor
    P: Tensor
    B: Tensor
    V: Tensor

    def dense(self) -> tuple[Tensor, Tensor]:
        """The real matrices A (N, N), B (N,) that this form represents."""
        P = 2 * (self.P @ self.V.mT).real
        A = 2 * ((self.V * self.A) @ self.V.mH).real - P.mT @ P
        return A, 2 * (self.V @ self.B).real


Arguments = ParamSpec("Arguments")
Tensors = TypeVar("Tensors", bound=tuple[Tensor, ...])


def on_cpu(function: Callable[Arguments, Tensors]) -> Callable[Arguments, Tensors]:
    """Compute on the CPU, then move the resulting tensors to the default device, which may be "meta"."""

    @functools.wraps(function)
    def compute(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Tensors:
        device = torch.get_default_device()
        with torch.device("cpu"):
            results = function(*args, **kwargs)
        if device.type == "cpu":
            return results
        make: Callable[..., Tensors] = getattr(type(results), "_make", type(results))
        return make(x.to(device) for x in results)

    return compute


@on_cpu
def transition(measure: str, N: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """The continuous-time pair A (N, N), B (N,), float64.

    legs      Legendre polynomials of exp(-s): all of the past, fading (S4 eq. 2)
    legt      Legendre polynomials on the last two units of time, in the symmetric scaling
              (Gu et al. 2023, arXiv:2206.12037, the translated Legendre method)
    fout      cosines and sines on the last two units of time (the same paper, truncated Fourier method); the sine of
              frequency zero stays zero
    random    -1/2 + a random skew matrix - a random rank-one matrix, for the ablation
    diagonal  -1/2 +- i w with random w in (0, pi N / 2) on 2x2 blocks, for the ablation
    gaussian  a dense matrix of independent normals, shifted to be stable; it has no normal-plus-low-rank form
    generator for the three random measures; with equal seeds, `rank_correction` and `nplr` match this matrix
    raises    ValueError for another measure or N < 1
    """
    check_measure(measure, N, (*MEASURES, "gaussian"))
    n = torch.arange(N, dtype=torch.float64)
    root = (2 * n + 1).sqrt()
    if measure == "legs":
        return -torch.outer(root, root).tril(-1) - (n + 1).diag(), root
    if measure == "legt":
        sign = torch.where(n[:, None] < n, (-1.0) ** (n[:, None] - n), 1.0)
        return -torch.outer(root, root) * sign / 2, root / 2
    if measure == "fout":
        B = rank_correction("fout", N)[0]
        # derivatives of cosines and sines, minus the endpoint that leaves the window
        w = math.pi * torch.div(n[1:], 2, rounding_mode="floor") * (n[1:] % 2)
        return w.diag(-1) - w.diag(1) - torch.outer(B, B), B
    if measure == "gaussian":
        A = torch.randn(N, N, dtype=torch.float64, generator=generator) / math.sqrt(N)
        # its eigenvalues fill the unit disc
        return A - 1.5 * torch.eye(N, dtype=torch.float64), torch.ones(N, dtype=torch.float64)
    normal, P, B = random_measure(measure, N, generator)
    return normal - P.mT @ P, B


def rank_correction(measure: str, N: int, generator: torch.Generator | None = None) -> Tensor:
    """P (r, N), float64, such that A + sum_r P_r P_r^T is a multiple of the identity plus a skew matrix.

    The rank r is 1 for legs, fout and random, 2 for legt, 0 for diagonal (S4 appendix C.1).
    raises  ValueError for a measure that has no such form
    """
    check_measure(measure, N, MEASURES)
    n = torch.arange(N, dtype=torch.float64)
    if measure == "legs":
        return (n + 0.5).sqrt()[None]
    if measure == "legt":
        P = (n + 0.5).sqrt()
        return torch.stack([P * (n % 2), P * (1 - n % 2)])
    if measure == "fout":
        # basis functions at age zero: 1, then sqrt(2) for cosines and 0 for sines
        P = math.sqrt(2) * (1 - n % 2)
        P[0] = 1
        return P[None]
    return random_measure(measure, N, generator)[1]


@on_cpu
def nplr(measure: str, N: int, generator: torch.Generator | None = None) -> NPLR:
    """Normal-plus-low-rank form of `transition(measure, N)` (S4, theorem 1); conventions as in NPLR.

    raises  ValueError for a measure that has no such form
    """
    check_measure(measure, N, MEASURES)
    if measure in ("random", "diagonal"):
        normal, P, B = random_measure(measure, N, generator)
    else:
        A, B = transition(measure, N)
        P = rank_correction(measure, N)
        normal = A + P.mT @ P
    skew = (normal - normal.mT) / 2
    # -i S is Hermitian, and a Hermitian solver gives eigenvectors that are orthonormal to rounding
    w, vectors = torch.linalg.eigh(-1j * skew)
    M = (N + 1) // 2
    w, V = w[N - M :], vectors[:, N - M :].clone()
    zeros = int((w.abs() <= 1e-9 * w.abs().max().clamp(min=1)).sum())
    if zeros:
        # the eigenspace of zero is real; combine its vectors into conjugate pairs
        w[:zeros] = 0
        V[:, :zeros] = conjugate_pairs(torch.linalg.svd(skew).Vh[N - (2 * zeros - N % 2) :].mT, N)
    b = V.mH @ B.to(V.dtype)
    V = V * torch.where(b.abs() > 1e-12, torch.sgn(b), 1)
    A = torch.complex(torch.full_like(w, REAL_PART[measure]), w)
    return NPLR(A, P.to(V.dtype) @ V.conj(), V.mH @ B.to(V.dtype), V)


def conjugate_pairs(real: Tensor, N: int) -> Tensor:
    """Orthonormal real vectors (N, 2 n - N % 2) -> complex (N, n) that span, with their conjugates, the same space."""
    unpaired = real[:, : N % 2] / math.sqrt(2)
    first, second = real[:, N % 2 :: 2], real[:, N % 2 + 1 :: 2]
    return torch.cat([unpaired.to(torch.complex128), torch.complex(first, second) / math.sqrt(2)], 1)


def random_measure(measure: str, N: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    """Normal part (N, N), rank correction (r, N) and B (N,) of the two random measures."""
    eye = torch.eye(N, dtype=torch.float64)
    if measure == "random":
        G = torch.randn(N, N, dtype=torch.float64, generator=generator)
        P = torch.randn(1, N, dtype=torch.float64, generator=generator)
        return (G - G.mT) / 2 - eye / 2, P, torch.randn(N, dtype=torch.float64, generator=generator)
    w = torch.zeros(max(N - 1, 0), dtype=torch.float64)
    w[::2] = math.pi * N / 2 * torch.rand(N // 2, dtype=torch.float64, generator=generator)
    return w.diag(-1) - w.diag(1) - eye / 2, torch.zeros(0, N, dtype=torch.float64), torch.ones(N, dtype=torch.float64)


def basis(measure: str, N: int, age: Tensor) -> tuple[Tensor, Tensor]:
    """Basis functions p (N, K) whose coefficients the state holds, at the given ages, and their weight (K,).

    The state is x_n(t) = integral over s >= 0 of u(t - s) p_n(s) weight(s). The p_n are orthonormal under that weight,
    so the history is u(t - s) ~ sum_n x_n(t) p_n(s). The weight of legt and fout is 1/2 on [0, 2].

    age  (K,) float64, time units into the past
    """
    check_measure(measure, N, ("legs", "legt", "fout"))
    n = torch.arange(N, dtype=torch.float64)[:, None]
    weight = torch.exp(-age) if measure == "legs" else ((age >= 0) & (age <= 2)) / 2.0
    if measure == "fout":
        angle = math.pi * torch.div(n, 2, rounding_mode="floor") * age
        scale = torch.where(n == 0, 1.0, math.sqrt(2))
        return scale * torch.where(n % 2 == 0, angle.cos(), angle.sin()), weight
    x = 2 * torch.exp(-age) - 1 if measure == "legs" else 1 - age
    return (2 * n + 1).sqrt() * torch.stack(legendre(N, x)), weight


def legendre(N: int, x: Tensor) -> list[Tensor]:
    """Legendre polynomials P_0 ... P_{N-1} at x, by the three-term recurrence."""
    p = [torch.ones_like(x), x]
    for n in range(1, N - 1):
        p.append(((2 * n + 1) * x * p[n] - n * p[n - 1]) / (n + 1))
    return p[:N]


def log_steps(count: int, dt_min: float, dt_max: float) -> Tensor:
    """Random log(dt) (count,), float32, uniform between log(dt_min) and log(dt_max).

    raises  ValueError unless 0 < dt_min <= dt_max
    """
    if not 0 < dt_min <= dt_max:
        raise UserError(f"dt_min={dt_min} and dt_max={dt_max} are no range of steps", hint="0 < dt_min <= dt_max")
    return torch.empty(count).uniform_(math.log(dt_min), math.log(dt_max))


def check_sampling(length: int, rate: float) -> None:
    """Raise ValueError unless a layer can be adapted to this length and sampling rate."""
    if length < 1 or not 0 < rate < math.inf:
        raise UserError(f"length={length}, rate={rate}: both must be positive")


def bilinear(A: Tensor, B: Tensor, dt: Tensor | float) -> tuple[Tensor, Tensor]:
    """Discretise by the bilinear rule: Ab = (I - dt A / 2)^-1 (I + dt A / 2), Bb = (I - dt A / 2)^-1 dt B (S4 eq. 3).

    A   (..., N, N)
    B   (..., N)
    dt  step; a number or a tensor (...)
    """
    dt = torch.as_tensor(dt, dtype=A.real.dtype, device=A.device)[..., None]
    half = dt[..., None] / 2 * A
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    both = torch.linalg.solve(eye - half, torch.cat([eye + half, (dt * B)[..., None]], -1))
    return both[..., :-1], both[..., -1]


def zoh(A: Tensor, B: Tensor, dt: Tensor | float) -> tuple[Tensor, Tensor]:
    """Discretise by zero-order hold: Ab = exp(dt A), Bb = integral_0^dt exp(s A) B ds. Shapes as in `bilinear`.

    Both come from the exponential of dt [[A, B], [0, 0]], so A may be singular.
    """
    dt = torch.as_tensor(dt, dtype=A.real.dtype, device=A.device)[..., None, None]
    top = dt * torch.cat([A, B[..., None]], -1)
    both = torch.linalg.matrix_exp(torch.cat([top, torch.zeros_like(top[..., :1, :])], -2))
    return both[..., :-1, :-1], both[..., :-1, -1]


def ssm_recurrence(A: Tensor, B: Tensor, C: Tensor, D: Tensor | float, u: Tensor) -> Tensor:
    """Reference recurrence x_k = A x_{k-1} + B u_k, y_k = C x_k + D u_k, starting from x_{-1} = 0.

    A, B, C  discrete (N, N), (N,), (N,)
    u        (..., L); y has the same shape
    """
    x = u.new_zeros(*u.shape[:-1], A.shape[-1])
    y = []
    for k in range(u.shape[-1]):
        x = x @ A.mT + u[..., k, None] * B
        y.append(x @ C + D * u[..., k])
    return torch.stack(y, -1)


def ssm_kernel(A: Tensor, B: Tensor, C: Tensor, L: int) -> Tensor:
    """Reference convolution kernel (L,) of the discrete system: K_k = C A^k B (S4 eq. 5)."""
    K = []
    for _ in range(L):
        K.append(C @ B)
        B = A @ B
    return torch.stack(K)


def check_measure(measure: str, N: int, known: tuple[str, ...]) -> None:
    if measure not in known:
        raise UserError(f"measure {measure!r} is not available here", hint=f"one of {', '.join(known)}")
    if N < 1:
        raise UserError(f"state size N={N} must be at least 1")
