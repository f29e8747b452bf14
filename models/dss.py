"""DSS: a diagonal state space as expressive as S4, with a kernel that is a sum of exponentials.

Gupta, Gu, Berant 2022, "Diagonal State Spaces are as Effective as Structured State Spaces" (arXiv:2203.14343),
proposition 1 and section 3.

One diagonal A for all features, a step size for each feature, no matrix B. The two forms of the kernel, l < L:

    exp      K[l] = Re sum_n C_n (exp(dt A_n) - 1) / A_n  exp(l dt A_n),       Re A < 0 by parametrisation
    softmax  K[l] = Re sum_n C_n / A_n  softmax over l of (l dt A_n),          A free

The second is the first with C divided by exp(L dt A) - 1, because the normaliser is a geometric sum. It is normalised
for one length, `max_len`: shorter inputs use the beginning of that kernel, otherwise padding would change it.

B batch, L length, H features (the model width), N complex states, K outputs per feature (2 if two-sided).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import Dropout
from lra.nn.ssm import FixedLength, kernel_groups
from lra.ops.autograd_function import can_branch
from lra.ops.fftconv import long_conv
from lra.ops.hippo import check_sampling, log_steps, nplr
from lra.ops.precision import at_least_float32, exact, without_autocast
from lra.ops.ssm_kernels.dispatch import diagonal_kernel
from lra.ops.ssm_step import DiscreteSSM

# keeps 1 / sum finite where a complex softmax has sum zero (the paper's section 3.1)
EPS = 1e-7


class DSS(FixedLength):
    """DSS layer: kernel, convolution, activation, gated linear map. Residual and norm are the backbone's.

    d_state        N; A starts as the eigenvalues of the normal part of HiPPO-LegS of size 2N with imaginary part >= 0
    form           "exp" or "softmax"
    bidirectional  a second kernel reads from the right
    dt_min, dt_max range of the log-uniform initial step sizes
    lr             learning rate of A and the step sizes, which have no weight decay; None for the optimiser's
    backend        of lra.ops.ssm_kernels.dispatch
    raises         ValueError for an unknown form
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        d_state: int = 64,
        form: str = "exp",
        bidirectional: bool = True,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dropout: float = 0.0,
        tie_dropout: bool = True,
        lr: float | None = 0.001,
        backend: str = "auto",
    ):
        super().__init__()
        if form not in ("exp", "softmax"):
            raise ValueError(f"form: {form!r} is not one of exp, softmax")
        self.form, self.bidirectional, self.length, self.backend = form, bidirectional, max_len, backend
        A = nplr("legs", 2 * d_state).A
        # (N,); log(-Re A) in the exp form
        self.A_real = nn.Parameter((-A.real).log().float() if form == "exp" else A.real.float())
        self.A_imag = nn.Parameter(A.imag.float())
        self.C = nn.Parameter(torch.randn(1 + bidirectional, d_model, d_state, 2))
        self.D = nn.Parameter(torch.randn(d_model))
        self.log_dt = nn.Parameter(log_steps(d_model, dt_min, dt_max))
        self.activation = nn.GELU()
        self.dropout = Dropout(dropout, tied=tie_dropout)
        self.out = nn.Linear(d_model, 2 * d_model)
        self.optim = kernel_groups(lr, dict.fromkeys(("A_real", "A_imag", "log_dt"), "kernel"))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = long_conv(x.mT, self.kernel(x.shape[1]), self.D, mask).mT
        return F.glu(self.out(self.dropout(self.activation(y))), -1)

    def system(self) -> tuple[Tensor, Tensor, Tensor]:
        """dt (H,), A (H, N) and C (K, H, N) such that K[l] = 2 Re sum C expm1(dt A) / A exp(l dt A).

        Where Re A > 0 (softmax form) the result is -A, and the kernel runs backwards from the end of `length`.
        """
        log_dt, real, imag, C = map(at_least_float32, (self.log_dt, self.A_real, self.A_imag, self.C))
        dt, C = log_dt.exp(), torch.view_as_complex(C) / 2
        if self.form == "exp":
            return dt, torch.complex(-real.exp(), imag).expand(len(dt), -1), C
        A = torch.complex(real, imag)
        A = torch.where(self.A_real > 0, -A, A).expand(len(dt), -1)
        step = dt[:, None] * A
        total = torch.expm1(self.length * step) / torch.expm1(step)
        # C / A / total, where A has changed its sign
        sign = torch.where(self.A_real > 0, -1, 1)
        return dt, A, sign * C * total.conj() / (total.abs() ** 2 + EPS) / torch.expm1(step)

    def kernel(self, L: int) -> Tensor:
        """First L taps (K, H, L); those of the second output read from the right, from one position away."""
        if self.form == "softmax" and self.length < L:
            raise ValueError(f"DSS was normalised for {self.length} positions, input has {L}; hint: call prepare({L})")
        with without_autocast(self.D.device):
            dt, A, C = self.system()
            B = torch.ones_like(A)
            growing = self.A_real > 0
            if self.form == "exp" or (can_branch(growing) and not growing.any()):
                return diagonal_kernel(dt, A, B, C, L, backend=self.backend)
            forwards = diagonal_kernel(dt, A, B, C * ~growing, L, backend=self.backend)
            backwards = diagonal_kernel(dt, A, B, C * growing, self.length, backend=self.backend)
            return forwards + backwards.flip(-1)[..., :L]

    @torch.no_grad()
    def prepare(self, length: int, *, rate: float = 1.0) -> None:
        """Fit the layer, in place, to another length and to inputs sampled `rate` times as often as before.

        The normaliser of the softmax form depends on the length: C compensates, so that the kernel's beginning remains.
        """
        check_sampling(length, rate)
        before = self.system()[2] if self.form == "softmax" else None
        if before is not None and can_branch(self.A_real) and (self.A_real > 0).any():
            raise ValueError("a softmax DSS with growing states cannot be fitted to another length or sampling rate")
        self.log_dt.sub_(math.log(rate))
        self.length = length
        if before is not None:
            after = self.system()[2]
            C = torch.view_as_complex(at_least_float32(self.C))
            self.C.copy_(torch.view_as_real(C * (before / after)))

    def discretise(self) -> DiscreteSSM:
        """The recurrence h' = a h + u, y = 2 Re C h'."""
        dt, A, C = map(exact, self.system())
        step = dt[:, None] * A
        C = C[0] * torch.expm1(step) / A
        if self.form == "softmax":
            growing = self.A_real > 0
            # forwards again: exp(-(length - 1 - l) dt A), a growing mode of tiny weight
            C = C * torch.where(growing, torch.exp((self.length - 1) * step), 1)
            step = torch.where(growing, -step, step)
        return DiscreteSSM(step.exp(), torch.ones_like(C), C, self.D)

    def zero_state(self, batch: int) -> Tensor:
        """Zeros (batch, H, N), complex."""
        return self.system()[2].new_zeros(batch, *self.C.shape[1:3])

    def linear_system(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.discrete.diagonal()

    @torch.no_grad()
    def prefill(self, x: Tensor, mask: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs (B, L, H) and the state after the last real position of each row, from a state; without gradient."""
        y = long_conv(x.mT, self.kernel(x.shape[1]), self.D, mask)
        y, state = self.carry(y, x, mask, state)
        return F.glu(self.out(self.activation(y.mT)), -1), state

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process one position: x (B, H), state -> y (B, H), next state."""
        y, state = self.discrete.step(x, state, self.activation)
        return F.glu(self.out(y), -1), state
