"""LSSL: a dense state space, the predecessor of S4.

Gu, Johnson, Goel, Saab, Dao, Rudra, Re 2021, "Combining Recurrent, Convolutional, and Continuous-time Models with
Linear State-Space Layers" (arXiv:2110.13985), sections 3 and 5.

One dense pair (A, B) for all features and a step size for each, x' = A x + B u, y = C x + D u. Every feature needs its
own discrete matrix and its powers: O(H N^2 log L) memory for the matrices and O(H N L) for the impulse response of the
state, against O(H (N + L)) for S4. Unlike in S4, nothing keeps a learned A stable over thousands of steps.

B batch, L length, H features (the model width), N state, K outputs per feature (2 if two-sided).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import Dropout
from lra.nn.ssm import Recurrent, kernel_groups
from lra.ops.fftconv import long_conv
from lra.ops.hippo import bilinear, check_sampling, log_steps, transition
from lra.ops.precision import at_least_float32, without_autocast


def krylov(A: Tensor, B: Tensor, L: int) -> Tensor:
    """Impulse response of the state, [B, A B, ..., A^{L-1} B]: (H, N, N), (H, N) -> (H, N, L).

    Doubling: the first 2^i columns times A^{2^i} are the next 2^i (section 5 of the paper, by squaring).
    """
    columns = B[..., None]
    while columns.shape[-1] < L:
        columns = torch.cat([columns, A @ columns], -1)
        if columns.shape[-1] < L:
            A = A @ A
    return columns[..., :L]


class LSSL(Recurrent):
    """LSSL layer: kernel, convolution, activation, gated linear map. Residual and norm are the backbone's.

    d_state        N
    init           measure of lra.ops.hippo, or "gaussian"
    learn          train A, B and the step sizes; False keeps them fixed (the paper's LSSL-fixed)
    bidirectional  a second kernel reads from the right
    dt_min, dt_max range of the log-uniform initial step sizes
    lr             learning rate of A, B and the step sizes, which have no weight decay; None for the optimiser's
    raises         ValueError for an unknown init
    """

    A: Tensor
    B: Tensor
    log_dt: Tensor

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        d_state: int = 64,
        init: str = "legs",
        learn: bool = True,
        bidirectional: bool = True,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dropout: float = 0.0,
        tie_dropout: bool = True,
        lr: float | None = 0.001,
    ):
        super().__init__()
        self.bidirectional = bidirectional
        A, B = transition(init, d_state)
        log_dt = log_steps(d_model, dt_min, dt_max)
        for name, value in (("A", A.float()), ("B", B.float()), ("log_dt", log_dt)):
            if learn:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self.C = nn.Parameter(torch.randn(1 + bidirectional, d_model, d_state))
        self.D = nn.Parameter(torch.randn(d_model))
        self.dropout = Dropout(dropout, tied=tie_dropout)
        self.out = nn.Linear(d_model, 2 * d_model)
        self.optim = kernel_groups(lr, dict.fromkeys(("A", "B", "log_dt"), "kernel")) if learn else {}

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = long_conv(x.mT, self.kernel(x.shape[1]), self.D, mask).mT
        return F.glu(self.out(self.dropout(F.gelu(y))), -1)

    def kernel(self, L: int) -> Tensor:
        """First L taps (K, H, L); those of the second output read from the right, from one position away."""
        with without_autocast(self.D.device):
            return torch.einsum("khn,hnl->khl", at_least_float32(self.C), krylov(*self.system(), L))

    def system(self) -> tuple[Tensor, Tensor]:
        """Discrete A and B of every feature: (H, N, N), (H, N)."""
        A, B, log_dt = map(at_least_float32, (self.A, self.B, self.log_dt))
        return bilinear(A, B, log_dt.exp())

    @torch.no_grad()
    def prepare(self, length: int, *, rate: float = 1.0) -> None:
        """Fit the layer, in place, to inputs sampled `rate` times as often as before; the length does not matter."""
        check_sampling(length, rate)
        self.log_dt.sub_(math.log(rate))

    def discretise(self) -> tuple[Tensor, Tensor]:
        return self.system()

    def zero_state(self, batch: int) -> Tensor:
        """Zeros (batch, H, N)."""
        return at_least_float32(self.C).new_zeros(batch, *self.C.shape[1:])

    def linear_system(self) -> tuple[Tensor, Tensor, Tensor]:
        A, B = self.discrete
        return A.double(), B.double(), self.C[0].double()

    @torch.no_grad()
    def prefill(self, x: Tensor, mask: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs (B, L, H) and the state after the last real position of each row, from a state; without gradient."""
        y = long_conv(x.mT, self.kernel(x.shape[1]), self.D, mask)
        y, state = self.carry(y, x, mask, state)
        return F.glu(self.out(F.gelu(y.mT)), -1), state

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process one position, O(H N^2): x (B, H), state -> y (B, H), next state."""
        A, B = self.discrete
        state = torch.einsum("hmn,bhn->bhm", A, state) + B * x[..., None]
        y = (self.C[0] * state).sum(-1) + self.D * x
        return F.glu(self.out(F.gelu(y.to(x.dtype))), -1), state
