"""S4D against the diagonal recurrence it computes."""

import math

import pytest
import torch

from helpers.comparison import ragged, step_through
from lra.ops.hippo import bilinear, nplr, ssm_kernel, zoh
from models.s4d import INITS, S4D, poles


@pytest.mark.parametrize("rule", [zoh, bilinear])
@pytest.mark.parametrize("init", INITS)
def test_starts_as_the_dense_recurrence_of_its_poles(init, rule):
    torch.manual_seed(0)
    options = {"init": init, "discretization": rule.__name__, "bidirectional": False, "dt_min": 0.05, "dt_max": 0.2}
    layer = S4D(3, 20, d_state=6, **options).double()
    A, B = poles(init, 6)
    C = layer.C[0].to(A.dtype) if init == "real" else 2 * torch.view_as_complex(layer.C[0])
    kernel = layer.kernel(20)[0]
    for h, dt in enumerate(layer.log_dt.exp().tolist()):
        exact = ssm_kernel(*rule(A.diag(), B, dt), C[h], 20).real
        torch.testing.assert_close(kernel[h], exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("N", [1, 6])
def test_steps_equal_the_convolution(N, init, discretization):
    torch.manual_seed(0)
    layer = S4D(4, 40, d_state=N, n_ssm=2, init=init, discretization=discretization, bidirectional=False)
    x, mask = ragged(4, 40, 40)
    layer = layer.double().eval()
    torch.testing.assert_close(step_through(layer, x), layer(x, mask), rtol=1e-9, atol=1e-10)


def test_initial_poles_are_those_of_the_paper():
    n = torch.arange(4, dtype=torch.float64)
    lin, inv, legs, real = (poles(init, 8)[0] for init in ("lin", "inv", "legs", "real"))
    torch.testing.assert_close(lin, torch.complex(-0.5 * torch.ones_like(n), math.pi * n))
    torch.testing.assert_close(inv.imag, 8 / math.pi * (8 / (2 * n + 1) - 1))
    torch.testing.assert_close(legs, nplr("legs", 8).A)
    assert real.tolist() == [-(k + 1) for k in range(8)]


def test_legs_kernel_tends_to_that_of_s4():
    """Theorem 3 of the paper: the diagonal part with half of B spans, in the limit, the basis of HiPPO-LegS."""
    t = torch.linspace(0.05, 1.0, 20, dtype=torch.float64)
    gaps = []
    for N in (16, 256):
        form = nplr("legs", N)
        full, b = form.dense()
        exact = torch.stack([(torch.linalg.matrix_exp(s * full) @ b)[0] for s in t])
        diagonal, half = poles("legs", N)
        approximate = 2 * (form.V[0] * half * torch.exp(t[:, None] * diagonal)).sum(-1).real
        gaps.append((approximate - exact).abs().mean().item())
    assert gaps[1] < gaps[0] / 3


def test_real_system_has_only_real_parameters():
    layer = S4D(4, 16, init="real", d_state=3)
    assert "A_imag" not in dict(layer.named_parameters())
    assert "A_imag" not in layer.optim
    assert layer.C.shape == (2, 4, 3)
    layer.kernel(16).sum().backward()
    assert layer.C.grad is not None


@pytest.mark.parametrize("glu", [True, False])
def test_glu_is_optional(glu):
    torch.manual_seed(0)
    layer, x = S4D(4, 8, glu=glu), torch.randn(2, 8, 4)
    value, gate = layer.out(x).split([4, 4 * glu], -1)
    torch.testing.assert_close(layer.mix(x), value * gate.sigmoid() if glu else value)
    assert layer(x, torch.ones(2, 8, dtype=torch.bool)).shape == x.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discretization": "euler"}, "discretization: 'euler' is not one of zoh, bilinear"),
        ({"activation": "tanh"}, "activation: 'tanh'"),
        ({"backend": "cuda"}, "'cuda' is unknown"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        S4D(4, 8, **options).kernel(8)
