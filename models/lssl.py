"""LSSL: the dense state space that S4 made affordable.

Gu, Johnson, Goel, Saab, Dao, Rudra, Re 2021, "Combining Recurrent, Convolutional, and Continuous-time Models with
Linear State-Space Layers" (arXiv:2110.13985), sections 3 and 5.

One dense pair (A, B) for all features and a step for each, x' = A x + B u, y = C x + D u. Every feature needs its own
discrete matrix and its powers: O(H N^2 log L) of memory for the matrices and O(H N L) for the states of an impulse,
against O(H (N + L)) for S4. Nothing here keeps a learned A stable over thousands of steps; that too is what S4 changed.

B batch, L length, H features (the model width), N state, K outputs per feature (2 if two-sided).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import Dropout
from lra.nn.ssm import Recurrent
from lra.ops.fftconv import long_conv
from lra.ops.hippo import bilinear, check_sampling, log_steps, transition


def krylov(A: Tensor, B: Tensor, L: int) -> Tensor:
    """The states of an impulse, [B, A B, ..., A^{L-1} B]: (H, N, N), (H, N) -> (H, N, L).

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
    learn          A, B and the steps are parameters; otherwise they stay as they start (the paper's LSSL-fixed)
    bidirectional  a second kernel reads from the right
    dt_min, dt_max ends of the log-uniform initial steps
    lr             learning rate of A, B and the steps, which take no weight decay; None for the optimiser's
    raises         ValueError for an unknown init
    """

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
        special = {"weight_decay": 0.0} | ({} if lr is None else {"lr": lr})
        self.optim = dict.fromkeys(("A", "B", "log_dt"), special) if learn else {}

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        u = (x * mask[..., None]).mT  # (B, H, L)
        return self.mix(long_conv(u, self.kernel(u.shape[-1]), self.D).mT)

    def mix(self, y: Tensor) -> Tensor:
        """What follows the state space, position by position: (..., H)."""
        y = F.gelu(y)
        return F.glu(self.out(self.dropout(y) if y.dim() == 3 else y), -1)

    def kernel(self, L: int) -> Tensor:
        """The first L taps (K, H, L); the second output's are read from the right, starting one position away."""
        with torch.autocast(self.D.device.type, enabled=False):
            return torch.einsum("khn,hnl->khl", self.C, krylov(*self.system(), L))

    def system(self) -> tuple[Tensor, Tensor]:
        """The discrete pair of every feature: (H, N, N), (H, N)."""
        return bilinear(self.A, self.B, self.log_dt.exp())

    @torch.no_grad()
    def prepare(self, length: int, *, rate: float = 1.0) -> None:
        """Fit the layer, in place, to inputs sampled `rate` times as often as before; it has no length to fit."""
        check_sampling(length, rate)
        self.log_dt -= math.log(rate)

    def discretise(self) -> tuple[Tensor, Tensor]:
        return self.system()

    def default_state(self, batch: int) -> Tensor:
        """The state before the first position: zeros (batch, H, N)."""
        return self.C.new_zeros(batch, *self.C.shape[1:])

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One position, O(H N^2): x (B, H) and the state before it to y (B, H) and the state after it."""
        A, B = self.discrete
        state = torch.einsum("hmn,bhn->bhm", A, state) + B * x[..., None]
        return self.mix((self.C[0] * state).sum(-1) + self.D * x), state
