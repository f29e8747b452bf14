"""S4: long convolutions whose kernels are linear state spaces, initialised by HiPPO.

Gu, Goel, Re 2022, "Efficiently Modeling Long Sequences with Structured State Spaces" (arXiv:2111.00396).

Every feature u has a state x in C^N with x' = A x + B u, y = C x + D u, discretised by the bilinear rule with its own
step dt. The state matrix is diag(A) - P P*, normal plus low rank: the convolution kernel of length L comes from its
generating function, a Cauchy sum at each root of unity, and a step of the recurrence costs O(N).

    the paper                                        here
    HiPPO matrix, its normal plus low-rank form      lra.ops.hippo: transition, nplr
    algorithm 1: generating function, Cauchy sums,   S4.kernel: nplr_kernel of lra/ops/ssm_kernels; reference.py there
    Woodbury, inverse FFT                            defines the sums
    C (I - Ab^L), section 3.2                        S4.correct_length, S4.true_C, with the dense matrices below
    convolution with the kernel                      S4.forward: lra.ops.fftconv.long_conv
    the recurrence, appendix C.2                     S4.discretise, step: DiscreteSSM of lra.ops.ssm_step

B batch, L length, H features (the model width), S copies of (A, B, P), M conjugate pairs of the state (half of N),
K outputs per feature (2 if two-sided), R rank. `A` is always the diagonal part (the paper's Lambda) and Q = P. Only one
of each conjugate pair is stored, so a real quantity is twice the real part of a sum over M.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import ACTIVATIONS, Dropout, checked_reach
from lra.nn.ssm import FixedLength, kernel_groups
from lra.ops.fftconv import long_conv
from lra.ops.hippo import REAL_PART, bilinear, check_sampling, log_steps, nplr
from lra.ops.precision import at_least_float32, exact
from lra.ops.ssm_kernels.dispatch import expand_copies, nplr_kernel, system_from_parameters
from lra.ops.ssm_step import DiscreteSSM


def as_real(z: Tensor) -> Tensor:
    """Complex (...) as real and imaginary float32 (..., 2), which every optimiser and checkpoint format can handle."""
    return torch.view_as_real(z.resolve_conj()).float()


def dense(A: Tensor, B: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    """Dense state matrix (..., 2M, 2M) and B (..., 2M) of the real state [Re x, Im x]; P is (R, ..., M).

    Needed only for the length correction of C, which takes a power of the state matrix. P* x sums over pairs and their
    conjugates: 2 Re(conj P x), twice the product of [Re P, Im P] and the state.
    """
    split = torch.cat([P.real, P.imag], -1)
    re, im = A.real.diag_embed(), A.imag.diag_embed()
    normal = torch.cat([torch.cat([re, -im], -1), torch.cat([im, re], -1)], -2)
    return normal - 2 * torch.einsum("r...m,r...n->...mn", split, split), torch.cat([B.real, B.imag], -1)


def real_row(C: Tensor) -> Tensor:
    """Real row (..., H, 1, 2M) whose product with the state [Re x, Im x] is y = 2 Re(C x)."""
    return 2 * torch.cat([C.real, -C.imag], -1)[..., None, :]


def complex_row(row: Tensor) -> Tensor:
    """Inverse of real_row."""
    re, im = row[..., 0, :].chunk(2, -1)
    return torch.complex(re, -im) / 2


class S4(FixedLength):
    """S4 layer: kernel, convolution, activation, gated linear map. Residual and norm are the backbone's.

    The parameter C is C (I - Ab^length) with the discrete state matrix Ab: with it, the generating function truncated
    at `length` is a function of the resolvent (section 3.2). Shorter inputs use the beginning of the kernel; `prepare`
    fits C to another length or sampling rate.

    d_state        N; odd ones are embedded in N + 1
    n_ssm          copies of (A, B, P); feature h uses copy h mod n_ssm; None: one for each feature
    init           measure of lra.ops.hippo: "legs", "legt", "fout", "random", "diagonal"
    bidirectional  a second kernel reads from the right
    reach          only inputs less than `reach` positions away count, for analyses (no steps then); None: all
    dt_min, dt_max range of the log-uniform initial step sizes
    lr             learning rates of dt, A (with P) and B; a number for all, None for the optimiser's
    backend        of lra.ops.ssm_kernels.dispatch
    raises         ValueError for an unknown init or activation, or where n_ssm does not divide d_model
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        d_state: int = 64,
        n_ssm: int | None = 1,
        init: str = "legs",
        bidirectional: bool = True,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        activation: str = "gelu",
        glu: bool = True,
        dropout: float = 0.0,
        tie_dropout: bool = True,
        lr: float | Mapping[str, float | None] | None = 0.001,
        backend: str = "auto",
        reach: int | None = None,
    ):
        super().__init__()
        self.reach = checked_reach(reach)
        n_ssm = n_ssm or d_model
        if n_ssm < 1 or d_model % n_ssm:
            raise ValueError(f"n_ssm: {n_ssm} copies do not divide {d_model} features")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation: {activation!r} is not one of {', '.join(ACTIVATIONS)}")
        self.bidirectional, self.glu, self.backend = bidirectional, glu, backend
        self.length = max_len

        A, P, B, _ = nplr(init, d_state)
        # random in the eigenbasis of A: a change of basis would not change its distribution
        C = torch.randn(1 + bidirectional, d_model, len(A), dtype=torch.cfloat)
        self.log_dt = nn.Parameter(log_steps(d_model, dt_min, dt_max))
        # poles on the imaginary axis: their gradients vanish in float32 rounding, and their log decay is infinite
        self.precise = REAL_PART[init] == 0
        self.A_log_decay = nn.Parameter((-A.real).clamp(min=1e-4).log().float().repeat(n_ssm, 1))  # (S, M)
        self.A_imag = nn.Parameter(A.imag.float().repeat(n_ssm, 1))
        self.B = nn.Parameter(as_real(B).repeat(n_ssm, 1, 1))  # (S, M, 2)
        self.P = nn.Parameter(as_real(P)[:, None].repeat(1, n_ssm, 1, 1))  # (R, S, M, 2)
        self.C = nn.Parameter(as_real(C))  # (K, H, M, 2), overwritten by the next line
        self.correct_length(C.to(torch.complex128))
        self.D = nn.Parameter(torch.randn(d_model))
        self.activation = ACTIVATIONS[activation]()
        self.dropout = Dropout(dropout, tied=tie_dropout)
        self.out = nn.Linear(d_model, (1 + glu) * d_model)
        self.optim = kernel_groups(lr, {"log_dt": "dt", "A_log_decay": "A", "A_imag": "A", "P": "A", "B": "B"})

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = long_conv(x.mT, self.kernel(x.shape[1]), self.D, mask)  # (B, H, L)
        return self.mix(self.dropout(self.activation(y.mT)))

    def mix(self, y: Tensor) -> Tensor:
        """The linear map across features, position by position."""
        y = self.out(y)
        return F.glu(y, -1) if self.glu else y

    def kernel(self, L: int) -> Tensor:
        """First L taps (K, H, L); those of the second output read from the right, from one position away."""
        if self.length < L:
            raise ValueError(f"S4 was prepared for {self.length} positions, input has {L}; hint: call prepare({L})")
        parameters = self.kernel_parameters()
        taps = nplr_kernel(*parameters, self.length, backend=self.backend, precise=self.precise)
        taps = taps if self.length == L else taps[..., :L]
        if self.reach is None:
            return taps
        first = torch.arange(len(taps), device=taps.device)[:, None, None]  # from the right: one position away
        return taps * (torch.arange(L, device=taps.device) + first < self.reach)

    def kernel_parameters(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The arguments of lra.ops.ssm_kernels.dispatch.nplr_kernel, with complex numbers as real pairs."""
        parameters = (self.log_dt, self.A_log_decay, self.A_imag, self.B, self.C, self.P)
        log_dt, log_decay, imag, B, C, P = map(at_least_float32, parameters)
        return log_dt, log_decay, imag, B, C, P

    def system(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """dt (H,), A (S, M), B (S, M), C (K, H, M), P (R, S, M)."""
        return system_from_parameters(*self.kernel_parameters())

    @torch.no_grad()
    def prepare(self, length: int, *, rate: float = 1.0) -> None:
        """Fit the layer, in place, to another length and to inputs sampled `rate` times as often as before.

        The continuous system stays the same. Half the rate means steps twice as long (section 4.3, 0.5x experiment).
        """
        check_sampling(length, rate)
        C = self.true_C()
        self.log_dt.sub_(math.log(rate))
        self.length = length
        self.correct_length(C)

    @torch.no_grad()
    def correct_length(self, C: Tensor) -> None:
        """Set the parameter to C (I - Ab^length), for C complex128 (K, H, M)."""
        if self.C.is_meta:
            return
        row = real_row(C)
        self.C.copy_(torch.view_as_real(complex_row(row - row @ self.decay())))

    @torch.no_grad()
    def true_C(self) -> Tensor:
        """C without the correction, complex128 (K, H, M), solved from C (I - Ab^length)."""
        decay = self.decay()
        correction = torch.eye(decay.shape[-1], dtype=decay.dtype, device=decay.device) - decay
        row = real_row(self.system()[3].to(torch.complex128))
        return complex_row(torch.linalg.solve(correction, row, left=False))

    def decay(self) -> Tensor:
        """Ab^length of the real state, float64 (H, 2M, 2M)."""
        dt, A, B, _, P = self.system()
        A, B, P = (expand_copies(z.to(torch.complex128), len(dt)) for z in (A, B, P))
        return torch.linalg.matrix_power(bilinear(*dense(A, B, P), dt.double())[0], self.length)

    def no_steps(self) -> str | None:
        """Why the layer has no recurrence; None if it has."""
        return None if self.reach is None else f"S4 with reach={self.reach} has no recurrence; hint: reach=None"

    def discretise(self) -> DiscreteSSM:
        """The bilinear rule: with the resolvent G = (2/dt - A + P P*)^-1, the discrete A is 4/dt G - 1 and B is 2 G B.

        By Woodbury's identity G = R - R P (1 + P* R P)^-1 P* R with R = 1 / (2/dt - A), diagonal.

        raises  RuntimeError for a layer whose kernel is cut
        """
        if reason := self.no_steps():
            raise RuntimeError(reason)
        dt, A, B, _, P = map(exact, self.system())
        A, B, P = (expand_copies(z, len(dt)) for z in (A, B, P))
        rate = 2 / dt[:, None]
        R = 1 / (rate - A)
        Q = (R * P.conj()).conj()  # Q* x = P* R x
        PRP = 2 * torch.einsum("rhm,shm->hrs", Q.conj(), P).real
        core = torch.linalg.inv(torch.eye(len(P), dtype=dt.dtype, device=dt.device) + PRP)
        P = torch.einsum("hm,rhm,hrs->shm", R, P, core.to(P.dtype))
        QB = 2 * torch.einsum("rhm,hm->rh", Q.conj(), B).real
        Bb = 2 * (R * B - torch.einsum("rhm,rh->hm", P, QB.to(P.dtype)))
        return DiscreteSSM(2 * rate * R - 1, Bb, self.true_C()[0], self.D, 2 * rate * P, Q)

    def zero_state(self, batch: int) -> Tensor:
        """Zeros (batch, H, M), complex."""
        C = self.system()[3]
        return C.new_zeros(batch, *C.shape[1:])

    def linear_system(self) -> tuple[Tensor, Tensor, Tensor]:
        """Dense discrete A, B and C of the real state [Re x, Im x]."""
        dt, A, B, _, P = map(exact, self.system())
        A, B, P = (expand_copies(z, len(dt)) for z in (A, B, P))
        return *bilinear(*dense(A, B, P), dt), real_row(self.true_C()[0]).squeeze(-2)

    @torch.no_grad()
    def prefill(self, x: Tensor, mask: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs (B, L, H) and the state after the last real position of each row, from a state; without gradient."""
        y = long_conv(x.mT, self.kernel(x.shape[1]), self.D, mask)
        real = None if state is None else torch.cat([state.real, state.imag], -1)
        y, real = self.carry(y, x, mask, real)
        return self.mix(self.activation(y.mT)), torch.complex(*real.chunk(2, -1))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process one position, O(N): x (B, H), state -> y (B, H), next state."""
        y, state = self.discrete.step(x, state, self.activation)
        return self.mix(y), state
