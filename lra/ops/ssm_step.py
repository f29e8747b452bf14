"""One step of a diagonal or diagonal plus low-rank state space, for stepping through a sequence.

`DiscreteSSM.recur` defines it. On a CPU in float32 or float64 a C++ loop (csrc/step.cpp) takes its place: one pass over
the state, with skip and activation.

B batch, H features, M conjugate pairs of the state, R rank.
"""

import ctypes
import functools
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.ops.cpp_library import library
from lra.ops.precision import at_least_float32, exact

REAL_TYPES = {torch.float32: "float", torch.float64: "double"}
# numbers of a state below which threads cost more than they save
LARGE = 2**18


class DiscreteSSM:
    """x' = A x - P (Q* x) + B u, y = 2 Re(C x') + D u for each feature, O(M R).

    A, B, C  complex (H, M), A diagonal
    D        real (H,)
    P, Q     complex (R, H, M); Q* x is the sum over both of each pair, 2 Re(conj(Q) x)

    All are rounded to the precision of D, at least float32.
    """

    def __init__(self, A: Tensor, B: Tensor, C: Tensor, D: Tensor, P: Tensor | None = None, Q: Tensor | None = None):
        none, real = A.new_empty(0, *A.shape), at_least_float32(D).dtype
        parts = (A, B, C, D, none if P is None else P, none if Q is None else Q)
        self.A, self.B, self.C, self.D, self.P, self.Q = (
            part.detach().to(real.to_complex() if part.is_complex() else real) for part in parts
        )
        self.packed: tuple[Tensor, Tensor] | None = None

    def step(self, u: Tensor, x: Tensor, activation: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """u (B, H), x (B, H, M) -> the activation of y (B, H), in the precision of u, and the next x.

        Gradients reach u and x.
        """
        if self.runs_compiled(u, x):
            gelu = type(activation) is nn.GELU and activation.approximate == "none"
            y, x = self.compiled(u, x, gelu)
            return y if gelu or activation is None else activation(y), x
        y, x = self.recur(u, x)
        y = y.to(u.dtype)
        return y if activation is None else activation(y), x

    def recur(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The definition of a step, without activation."""
        u = u.to(self.D.dtype)
        new = self.A * x + self.B * u[..., None]
        if len(self.P):
            new = new - torch.einsum("rhm,bhr->bhm", self.P, self.along(x).to(x.dtype))
        return 2 * (self.C * new).sum(-1).real + self.D * u, new

    def along(self, x: Tensor) -> Tensor:
        """Q* x, real (B, H, R)."""
        return 2 * torch.einsum("rhm,bhm->bhr", self.Q.conj(), x).real

    def diagonal(self) -> tuple[Tensor, Tensor, Tensor]:
        """A, B and C in float64 of x' = A x + B u, y = Re C x', for a system without low-rank part."""
        assert not len(self.P)
        return exact(self.A), exact(self.B), 2 * exact(self.C)

    def runs_compiled(self, u: Tensor, x: Tensor) -> bool:
        if u.device.type != "cpu" or u.dtype not in REAL_TYPES or self.D.dtype != u.dtype or x.dtype != self.A.dtype:
            return False
        if torch.is_grad_enabled() and (u.requires_grad or x.requires_grad):
            return False
        return u.is_contiguous() and x.is_contiguous() and has_loops()

    def compiled(self, u: Tensor, x: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
        """`recur`, and the exact GELU if asked for, in C++."""
        if self.packed is None:
            self.packed = self.pack()
        coefficients, D = self.packed
        y, new = torch.empty_like(u), torch.empty_like(x)
        (B, H, M), R = x.shape, len(self.P)
        threads = torch.get_num_threads() if x.numel() > LARGE else 1
        pointers = (t.data_ptr() for t in (coefficients, D, u, x, y, new))
        loops(u.dtype, R).step(*pointers, B, H, M, gelu, threads)
        return y, new

    def pack(self) -> tuple[Tensor, Tensor]:
        """Coefficients in the order of csrc/step.cpp, and D."""
        pairs = (z for pq in zip(self.P, 2 * self.Q, strict=True) for z in pq)
        arrays = torch.stack([self.A, self.B, 2 * self.C.conj(), *pairs], 1)  # (H, 3 + 2 R, M)
        lanes = ctypes.c_int.in_dll(loops(self.D.dtype, len(self.P)), "lanes").value
        parts = F.pad(torch.view_as_real(arrays.resolve_conj()).mT, (0, -self.A.shape[1] % lanes))
        return parts.contiguous(), self.D.contiguous()


@functools.cache
def has_loops() -> bool:
    try:
        library("step", "REAL=float", "RANK=1")
    except RuntimeError as error:
        warnings.warn(f"steps of state spaces use PyTorch's slower operations ({error})", stacklevel=2)
        return False
    return True


@functools.cache
def loops(dtype: torch.dtype, R: int) -> ctypes.CDLL:
    """The loop for a precision and a rank."""
    found = library("step", f"REAL={REAL_TYPES[dtype]}", f"RANK={R}")
    found.step.argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_long] * 3 + [ctypes.c_int] * 2
    return found
