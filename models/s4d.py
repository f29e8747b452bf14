"""S4D: the diagonal state space, S4 without the low-rank term.

Gu, Gupta, Goel, Re 2022, "On the Parameterization and Initialization of Diagonal State Space Models"
(arXiv:2206.11893).

Every feature u has a state x in C^N with x' = diag(A) x + B u, y = C x + D u. The convolution kernel is a sum of N
exponentials, K[l] = 2 Re sum_n C_n Bb_n Ab_n^l: a Vandermonde product.

B batch, L length, H features (the model width), S copies of (A, B), M conjugate pairs of the state (half of N),
K outputs per feature (2 if two-sided).
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import ACTIVATIONS, Dropout
from lra.nn.ssm import Recurrent, kernel_groups
from lra.ops.fftconv import long_conv
from lra.ops.hippo import check_sampling, log_steps, nplr
from lra.ops.precision import at_least_float32, exact
from lra.ops.ssm_kernels.dispatch import DISCRETIZATIONS, diagonal_kernel, expand_copies
from lra.ops.ssm_step import DiscreteSSM

INITS = ("lin", "inv", "legs", "real")


def poles(init: str, N: int) -> tuple[Tensor, Tensor]:
    """Initial A and B, complex128 (M,): section 4.4 and table 1; M = N for "real", half of N rounded up for the others.

    lin   -1/2 + i pi n
    inv   -1/2 + i N / pi (N / (2 n + 1) - 1)
    legs  the normal part of HiPPO-LegS, with half its B (theorem 3)
    real  -(n + 1)
    raises  ValueError for any other, for example S4's full-rank measures
    """
    if init not in INITS:
        raise ValueError(f"init {init!r} is no diagonal system; hint: use one of {', '.join(INITS)}, or the model s4")
    if init == "legs":
        A, _, B, _ = nplr("legs", N)
        return A, B / 2
    n = torch.arange(N if init == "real" else (N + 1) // 2, dtype=torch.float64)
    if init == "real":
        A = torch.complex(-(n + 1), torch.zeros_like(n))
    else:
        frequency = math.pi * n if init == "lin" else N / math.pi * (N / (2 * n + 1) - 1)
        A = torch.complex(torch.full_like(n, -0.5), frequency)
    return A, torch.ones_like(A)


class S4D(Recurrent):
    """S4D layer: kernel, convolution, activation, gated linear map. Residual and norm are the backbone's.

    d_state         N
    n_ssm           copies of (A, B); feature h uses copy h mod n_ssm; None: one for each feature
    init            "lin", "inv", "legs", or "real" for real exponentials
    discretization  "zoh" or "bilinear"
    bidirectional   a second kernel reads from the right
    dt_min, dt_max  range of the log-uniform initial step sizes
    lr              learning rates of dt, A and B; a number for all, None for the optimiser's
    backend         of lra.ops.ssm_kernels.dispatch
    raises          ValueError for an unknown init, discretization or activation, or where n_ssm does not divide d_model
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        d_state: int = 64,
        n_ssm: int | None = 1,
        init: str = "legs",
        discretization: str = "zoh",
        bidirectional: bool = True,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        activation: str = "gelu",
        glu: bool = True,
        dropout: float = 0.0,
        tie_dropout: bool = True,
        lr: float | Mapping[str, float | None] | None = 0.001,
        backend: str = "auto",
    ):
        super().__init__()
        n_ssm = n_ssm or d_model
        if n_ssm < 1 or d_model % n_ssm:
            raise ValueError(f"n_ssm: {n_ssm} copies do not divide {d_model} features")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation: {activation!r} is not one of {', '.join(ACTIVATIONS)}")
        if discretization not in DISCRETIZATIONS:
            raise ValueError(f"discretization: {discretization!r} is not one of {', '.join(DISCRETIZATIONS)}")
        self.discretization, self.bidirectional = discretization, bidirectional
        self.glu, self.backend, self.real = glu, backend, init == "real"
        A, B = poles(init, d_state)
        shape = (1 + bidirectional, d_model, len(A))
        C = torch.randn(shape) if self.real else torch.view_as_real(torch.randn(shape, dtype=torch.cfloat))
        self.log_dt = nn.Parameter(log_steps(d_model, dt_min, dt_max))
        self.A_log_decay = nn.Parameter((-A.real).log().float().repeat(n_ssm, 1))  # (S, M)
        if not self.real:
            self.A_imag = nn.Parameter(A.imag.float().repeat(n_ssm, 1))
        B = B.real if self.real else torch.view_as_real(B)
        self.B = nn.Parameter(B.float().repeat(n_ssm, *[1] * B.dim()))  # (S, M) if real, else (S, M, 2)
        self.C = nn.Parameter(C)  # (K, H, M) if real, else (K, H, M, 2)
        self.D = nn.Parameter(torch.randn(d_model))
        self.activation = ACTIVATIONS[activation]()
        self.dropout = Dropout(dropout, tied=tie_dropout)
        self.out = nn.Linear(d_model, (1 + glu) * d_model)
        kinds = {"log_dt": "dt", "A_log_decay": "A"} | ({} if self.real else {"A_imag": "A"}) | {"B": "B"}
        self.optim = kernel_groups(lr, kinds)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = long_conv(x.mT, self.kernel(x.shape[1]), self.D, mask)  # (B, H, L)
        return self.mix(self.dropout(self.activation(y.mT)))

    def mix(self, y: Tensor) -> Tensor:
        """The linear map across features, position by position."""
        y = self.out(y)
        return F.glu(y, -1) if self.glu else y

    def kernel(self, L: int) -> Tensor:
        """First L taps (K, H, L); those of the second output read from the right, from one position away."""
        return diagonal_kernel(*self.system(), L, discretization=self.discretization, backend=self.backend)

    def system(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """dt (H,), real, and A (S, M), B (S, M), C (K, H, M), complex."""
        decay = at_least_float32(self.A_log_decay).exp()
        B, C = at_least_float32(self.B), at_least_float32(self.C)
        if self.real:
            A, B = torch.complex(-decay, torch.zeros_like(decay)), torch.complex(B, torch.zeros_like(B))
            # halved, because a real pole is its own conjugate and would count twice
            C = torch.complex(C / 2, torch.zeros_like(C))
        else:
            A = torch.complex(-decay, at_least_float32(self.A_imag))
            B, C = torch.view_as_complex(B), torch.view_as_complex(C)
        return at_least_float32(self.log_dt).exp(), A, B, C

    @torch.no_grad()
    def prepare(self, length: int, *, rate: float = 1.0) -> None:
        """Fit the layer, in place, to inputs sampled `rate` times as often as before; the length does not matter."""
        check_sampling(length, rate)
        self.log_dt.sub_(math.log(rate))

    def discretise(self) -> DiscreteSSM:
        dt, A, B, C = map(exact, self.system())
        A, B = expand_copies(A, len(dt)), expand_copies(B, len(dt))
        dtA = dt[:, None] * A
        if self.discretization == "zoh":
            Ab, Bb = torch.exp(dtA), torch.expm1(dtA) / A * B
        else:
            Ab, Bb = (1 + dtA / 2) / (1 - dtA / 2), dt[:, None] / (1 - dtA / 2) * B
        return DiscreteSSM(Ab, Bb, C[0], self.D)

    def zero_state(self, batch: int) -> Tensor:
        """Zeros (batch, H, M), complex."""
        return self.system()[3].new_zeros(batch, *self.C.shape[1:3])

    def linear_system(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.discrete.diagonal()

    @torch.no_grad()
    def prefill(self, x: Tensor, mask: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs (B, L, H) and the state after the last real position of each row, from a state; without gradient."""
        y = long_conv(x.mT, self.kernel(x.shape[1]), self.D, mask)
        y, state = self.carry(y, x, mask, state)
        return self.mix(self.activation(y.mT)), state

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process one position, O(N): x (B, H), state -> y (B, H), next state."""
        y, state = self.discrete.step(x, state, self.activation)
        return self.mix(y), state
