"""LRU: a linear recurrent unit with complex diagonal state, stable by its parameters, started on a ring.

Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu, De 2023, "Resurrecting Recurrent Neural Networks for Long Sequences"
(arXiv:2303.06349), section 3 and appendix A.

h_t = a h_{t-1} + gamma B u_t and y_t = Re C h_t + D u_t, with |a| = exp(-exp(nu)) < 1 whatever nu is, and
gamma = sqrt(1 - |a|^2) at the start, which keeps the state's size for any memory.

B batch, L length, H features (the model width), N complex states, K outputs per feature (2 if two-sided).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import Dropout
from lra.nn.ssm import Recurrent
from lra.ops.hippo import check_sampling
from lra.ops.scan import mimo_ssm


def ring(N: int, r_min: float, r_max: float, max_phase: float) -> tuple[Tensor, Tensor]:
    """nu and theta, (N,): a = exp(-exp(nu) + i exp(theta)) uniform on the ring r_min <= |a| <= r_max (lemma 3.2)."""
    radius = (r_min**2 + torch.rand(N) * (r_max**2 - r_min**2)).clamp(1e-8, 1 - 1e-7)  # squared
    phase = (max_phase * torch.rand(N)).clamp(min=1e-6)
    return (-0.5 * radius.log()).log(), phase.log()


class LRU(Recurrent):
    """LRU layer: recurrence, activation, gated linear map. Residual and norm are the backbone's.

    d_state        N
    bidirectional  a second output matrix reads the states of a scan from the right
    r_min, r_max   ring of the initial eigenvalues
    max_phase      their largest angle; small ones favour long memory (section 3.4)
    lr             learning rate of nu, theta and gamma, which take no weight decay; None for the optimiser's
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        d_state: int = 256,
        bidirectional: bool = True,
        r_min: float = 0.9,
        r_max: float = 0.999,
        max_phase: float = 2 * math.pi,
        dropout: float = 0.0,
        tie_dropout: bool = True,
        lr: float | None = 0.001,
    ):
        super().__init__()
        if d_state < 1:
            raise ValueError(f"a state of {d_state} is empty: d_state must be at least 1")
        if not 0 <= r_min < r_max <= 1:
            raise ValueError(f"ring {r_min} to {r_max} is not inside the unit disc: 0 <= r_min < r_max <= 1 is needed")
        self.bidirectional = bidirectional
        nu, theta = ring(d_state, r_min, r_max, max_phase)
        self.nu, self.theta = nn.Parameter(nu), nn.Parameter(theta)
        self.log_gamma = nn.Parameter(0.5 * torch.log(-torch.expm1(-2 * nu.exp())))
        self.B = nn.Parameter(torch.randn(d_state, d_model, 2) / math.sqrt(2 * d_model))
        self.C = nn.Parameter(torch.randn(1 + bidirectional, d_model, d_state, 2) / math.sqrt(d_state))
        self.D = nn.Parameter(torch.randn(d_model))
        self.dropout = Dropout(dropout, tied=tie_dropout)
        self.out = nn.Linear(d_model, 2 * d_model)
        special = {"weight_decay": 0.0} | ({} if lr is None else {"lr": lr})
        self.optim = {"nu": special, "theta": special, "log_gamma": special}

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        # a scan from the right crosses the padding first, and leaves it with a state of zero
        u = x * mask[..., None]
        return self.mix(mimo_ssm(u, *self.system()) + self.D.to(u.dtype) * u)

    def mix(self, y: Tensor) -> Tensor:
        """What follows the recurrence, position by position: (..., H)."""
        y = F.gelu(y)
        return F.glu(self.out(self.dropout(y) if y.dim() == 3 else y), -1)

    def system(self) -> tuple[Tensor, Tensor, Tensor]:
        """a (N,), gamma B (N, H), C (K, H, N)."""
        a = torch.exp(torch.complex(-self.nu.exp(), self.theta.exp()))
        return a, self.log_gamma.exp()[:, None] * torch.view_as_complex(self.B), torch.view_as_complex(self.C)

    @torch.no_grad()
    def prepare(self, length: int, *, rate: float = 1.0) -> None:
        """Fit the layer, in place, to inputs sampled `rate` times as often as before; it has no length to fit.

        a^(1 / rate) is the same motion in shorter or longer steps (of a turn beyond half a circle, the shorter way
        round), and (a^(1 / rate) - 1) / (a - 1) what an input held over one of them adds; its phase is given to B.
        """
        check_sampling(length, rate)
        angle = torch.remainder(self.theta.double().exp() + math.pi, 2 * math.pi) - math.pi
        motion = torch.complex(-self.nu.double().exp(), angle)
        scale = torch.expm1(motion / rate) / torch.expm1(motion)
        self.B.copy_(torch.view_as_real(torch.view_as_complex(self.B).to(scale.dtype) * torch.sgn(scale)[:, None]))
        self.log_gamma += scale.abs().log()
        self.nu -= math.log(rate)
        self.theta.copy_(torch.remainder(angle / rate, 2 * math.pi).clamp(min=1e-12).log())

    def discretise(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.system()

    def default_state(self, batch: int) -> Tensor:
        """The state before the first position: zeros (batch, N), complex."""
        return torch.view_as_complex(self.B).new_zeros(batch, len(self.nu))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One position: x (B, H) and the state before it to y (B, H) and the state after it."""
        a, B, C = self.discrete
        state = a * state + x.to(B.dtype) @ B.mT
        return self.mix((state @ C[0].mT).real + self.D * x), state
