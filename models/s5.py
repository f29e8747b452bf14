"""S5: one state space with many inputs and outputs, computed by a parallel scan.

Smith, Warrington, Linderman 2023, "Simplified State Space Layers for Sequence Modeling" (arXiv:2208.04933), section 3
and appendix B.

x' = A x + B u with one diagonal A for all features and a step size for each state, discretised by zero-order hold. A
starts as the normal part of HiPPO-LegS in J blocks, B and C as random matrices in its eigenbasis.

B batch, L length, H features (the model width), N real states, M conjugate pairs of them, J blocks, K outputs per
feature (2 if two-sided).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import Dropout
from lra.nn.ssm import Recurrent, kernel_groups
from lra.ops.hippo import check_sampling, log_steps, nplr
from lra.ops.precision import at_least_float32
from lra.ops.scan import mimo_prefill, mimo_ssm

OUTPUTS = ("full_glu", "half_glu1", "half_glu2", "gelu")


def as_real(z: Tensor) -> Tensor:
    return torch.view_as_real(z.resolve_conj()).float()


class S5(Recurrent):
    """S5 layer: state space, activation, gate. Residual and norm are the backbone's.

    d_state        N, split evenly into the blocks
    n_blocks       J
    bidirectional  a second C reads the states of a scan from the right
    output         with g = gelu(y): "half_glu1" g sigmoid(W g), "half_glu2" y sigmoid(W g), "full_glu" V g sigmoid(W g)
                   or "gelu" g
    clip           limit the real part of A to at most -1e-4
    dt_min, dt_max range of the log-uniform initial step sizes
    lr             learning rate of A, B and the step sizes, which have no weight decay; None for the optimiser's
    raises         ValueError for an unknown output, or where the blocks do not divide the state
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        d_state: int = 256,
        n_blocks: int = 8,
        bidirectional: bool = True,
        output: str = "half_glu1",
        clip: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dropout: float = 0.0,
        tie_dropout: bool = True,
        lr: float | None = 0.001,
    ):
        super().__init__()
        if n_blocks < 1 or d_state % n_blocks:
            raise ValueError(f"n_blocks: {n_blocks} blocks do not divide a state of {d_state}")
        if output not in OUTPUTS:
            raise ValueError(f"output: {output!r} is not one of {', '.join(OUTPUTS)}")
        self.bidirectional, self.output, self.clip = bidirectional, output, clip
        block = nplr("legs", d_state // n_blocks)
        A, V = block.A.repeat(n_blocks), torch.block_diag(*[block.V] * n_blocks)  # (M,), (N, M)
        # both drawn as real, or complex, matrices over the N states, with a variance of 1 / N
        B = torch.randn(d_state, d_model, dtype=torch.float64) / math.sqrt(d_state)
        C = torch.randn(1 + bidirectional, d_model, d_state, 2, dtype=torch.float64) / math.sqrt(d_state)
        self.A_real, self.A_imag = nn.Parameter(A.real.float()), nn.Parameter(A.imag.float())
        self.B = nn.Parameter(as_real(V.mH @ B.to(V.dtype)))  # (M, H, 2)
        self.C = nn.Parameter(as_real(torch.view_as_complex(C) @ V))  # (K, H, M, 2)
        self.D = nn.Parameter(torch.randn(d_model))
        self.log_dt = nn.Parameter(log_steps(len(A), dt_min, dt_max))
        self.dropout = Dropout(dropout, tied=tie_dropout)
        self.value = nn.Linear(d_model, d_model) if output == "full_glu" else None
        self.gate = nn.Linear(d_model, d_model) if output != "gelu" else None
        self.optim = kernel_groups(lr, dict.fromkeys(("A_real", "A_imag", "B", "log_dt"), "kernel"))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        # zero padding leaves the state at zero, also for a scan from the right, which begins there
        u = x if mask is None else x * mask[..., None]
        return self.mix(mimo_ssm(u, *self.system()) + self.D.to(u.dtype) * u)

    def mix(self, y: Tensor) -> Tensor:
        """Activation and gate, position by position: (..., H) -> (..., H)."""
        g = F.gelu(y)
        g = self.dropout(g) if y.dim() == 3 else g
        if self.gate is None:
            return g
        value = y if self.output == "half_glu2" else g if self.value is None else self.value(g)
        return value * torch.sigmoid(self.gate(g))

    def system(self) -> tuple[Tensor, Tensor, Tensor]:
        """exp(dt A) (M,), the discrete B (M, H) and 2 C (K, H, M): the 2 accounts for the conjugate of each pair."""
        parameters = (self.A_real, self.A_imag, self.log_dt, self.B, self.C)
        real, imag, log_dt, B, C = map(at_least_float32, parameters)
        A = torch.complex(real.clamp(max=-1e-4) if self.clip else real, imag)
        step = log_dt.exp() * A
        B = (torch.expm1(step) / A)[:, None] * torch.view_as_complex(B)
        return step.exp(), B, 2 * torch.view_as_complex(C)

    @torch.no_grad()
    def prepare(self, length: int, *, rate: float = 1.0) -> None:
        """Fit the layer, in place, to inputs sampled `rate` times as often as before; the length does not matter."""
        check_sampling(length, rate)
        self.log_dt.sub_(math.log(rate))

    def discretise(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.system()

    def zero_state(self, batch: int) -> Tensor:
        """Zeros (batch, M), complex."""
        return torch.view_as_complex(at_least_float32(self.B)).new_zeros(batch, len(self.B))

    @torch.no_grad()
    def prefill(self, x: Tensor, mask: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs (B, L, H) and the state after the last real position of each row, from a state; without gradient."""
        u = x.masked_fill(~mask[..., None], 0)
        y, state = mimo_prefill(u, *self.system(), mask, state)
        return self.mix(y + self.D.to(u.dtype) * u), state

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process one position: x (B, H), state -> y (B, H), next state."""
        a, B, C = self.discrete
        state = a * state + x.to(B.dtype) @ B.mT
        return self.mix(((state @ C[0].mT).real + self.D * x).to(x.dtype)), state
