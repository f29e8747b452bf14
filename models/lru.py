"""LRU: a linear recurrent unit with a complex diagonal state, stable by parametrisation, initialised on a ring.

Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu, De 2023, "Resurrecting Recurrent Neural Networks for Long Sequences"
(arXiv:2303.06349), section 3 and appendix A.

h_t = a h_{t-1} + gamma B u_t and y_t = Re C h_t + D u_t, with |a| = exp(-exp(nu)) < 1 for every nu, and initially
gamma = sqrt(1 - |a|^2), which makes the size of the state independent of |a|.

B batch, L length, H features (the model width), N complex states, K outputs per feature (2 if two-sided).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import Dropout
from lra.nn.ssm import Recurrent, kernel_groups
from lra.ops.hippo import check_sampling
from lra.ops.precision import at_least_float32
from lra.ops.scan import mimo_prefill, mimo_ssm


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
    lr             learning rate of nu, theta and gamma, which have no weight decay; None for the optimiser's
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
        if not 0 <= r_min < r_max <= 1:
            raise ValueError(f"ring {r_min} to {r_max} is not in the unit disc; hint: 0 <= r_min < r_max <= 1")
        self.bidirectional = bidirectional
        nu, theta = ring(d_state, r_min, r_max, max_phase)
        self.nu, self.theta = nn.Parameter(nu), nn.Parameter(theta)
        self.log_gamma = nn.Parameter(0.5 * torch.log(-torch.expm1(-2 * nu.exp())))
        self.B = nn.Parameter(torch.randn(d_state, d_model, 2) / math.sqrt(2 * d_model))
        self.C = nn.Parameter(torch.randn(1 + bidirectional, d_model, d_state, 2) / math.sqrt(d_state))
        self.D = nn.Parameter(torch.randn(d_model))
        self.dropout = Dropout(dropout, tied=tie_dropout)
        self.out = nn.Linear(d_model, 2 * d_model)
        self.optim = kernel_groups(lr, dict.fromkeys(("nu", "theta", "log_gamma"), "kernel"))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        # zero padding leaves the state at zero, also for a scan from the right, which begins there
        u = x if mask is None else x * mask[..., None]
        y = mimo_ssm(u, *self.system()) + self.D.to(u.dtype) * u
        return F.glu(self.out(self.dropout(F.gelu(y))), -1)

    def system(self) -> tuple[Tensor, Tensor, Tensor]:
        """a (N,), gamma B (N, H), C (K, H, N)."""
        parameters = (self.nu, self.theta, self.log_gamma, self.B, self.C)
        nu, theta, log_gamma, B, C = map(at_least_float32, parameters)
        a = torch.exp(torch.complex(-nu.exp(), theta.exp()))
        return a, log_gamma.exp()[:, None] * torch.view_as_complex(B), torch.view_as_complex(C)

    @torch.no_grad()
    def prepare(self, length: int, *, rate: float = 1.0) -> None:
        """Fit the layer, in place, to inputs sampled `rate` times as often as before; the length does not matter.

        a becomes a^(1 / rate), with the angle of a taken in [-pi, pi). An input held over such a step adds
        (a^(1 / rate) - 1) / (a - 1) of what it added before; B takes the phase of this factor and gamma its size.
        """
        check_sampling(length, rate)
        angle = torch.remainder(self.theta.double().exp() + math.pi, 2 * math.pi) - math.pi
        motion = torch.complex(-self.nu.double().exp(), angle)
        scale = torch.expm1(motion / rate) / torch.expm1(motion)
        self.B.copy_(torch.view_as_real(torch.view_as_complex(self.B.double()) * torch.sgn(scale)[:, None]))
        self.log_gamma.add_(scale.abs().log())
        self.nu.sub_(math.log(rate))
        self.theta.copy_(torch.remainder(angle / rate, 2 * math.pi).clamp(min=1e-12).log())

    def discretise(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.system()

    def zero_state(self, batch: int) -> Tensor:
        """Zeros (batch, N), complex."""
        return torch.view_as_complex(at_least_float32(self.B)).new_zeros(batch, len(self.nu))

    @torch.no_grad()
    def prefill(self, x: Tensor, mask: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs (B, L, H) and the state after the last real position of each row, from a state; without gradient."""
        u = x.masked_fill(~mask[..., None], 0)
        y, state = mimo_prefill(u, *self.system(), mask, state)
        return F.glu(self.out(F.gelu(y + self.D.to(u.dtype) * u)), -1), state

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process one position: x (B, H), state -> y (B, H), next state."""
        a, B, C = self.discrete
        state = a * state + x.to(B.dtype) @ B.mT
        y = (state @ C[0].mT).real + self.D * x
        return F.glu(self.out(F.gelu(y.to(x.dtype))), -1), state
