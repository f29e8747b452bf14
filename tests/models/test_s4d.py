"""S4D against the diagonal recurrence it stands for."""

import math

import pytest
import torch

from helpers.recurrent_steps import stepped
from lra.ops.hippo import bilinear, nplr, ssm_kernel, zoh
from models.s4d import INITS, S4D, poles


def mask_of(x):
    return torch.ones(x.shape[:2], dtype=torch.bool)


@pytest.mark.parametrize("rule", [zoh, bilinear])
@pytest.mark.parametrize("init", INITS)
def test_layer_starts_as_the_dense_recurrence_of_its_poles(init, rule):
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
def test_step_equals_convolution(N, init, discretization):
    torch.manual_seed(0)
    layer = S4D(4, 40, d_state=N, n_ssm=2, init=init, discretization=discretization, bidirectional=False)
    layer = layer.double().eval()
    x = torch.randn(2, 40, 4, dtype=torch.float64)
    expected = layer(x, mask_of(x))
    torch.testing.assert_close(stepped(layer, x), expected, rtol=1e-9, atol=1e-10)


def test_initial_poles_are_the_papers():
    n = torch.arange(4, dtype=torch.float64)
    lin, inv, legs, real = (poles(init, 8)[0] for init in ("lin", "inv", "legs", "real"))
    torch.testing.assert_close(lin, torch.complex(-0.5 * torch.ones_like(n), math.pi * n))
    torch.testing.assert_close(inv.imag, 8 / math.pi * (8 / (2 * n + 1) - 1))
    torch.testing.assert_close(legs, nplr("legs", 8).A)
    assert real.tolist() == [-(k + 1) for k in range(8)]


def test_legs_kernel_tends_to_that_of_s4_as_the_state_grows():
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


def test_real_system_has_no_imaginary_part_to_train():
    layer = S4D(4, 16, init="real", d_state=3)
    assert "A_imag" not in dict(layer.named_parameters())
    assert layer.C.shape == (2, 4, 3)
    layer.kernel(16).sum().backward()
    assert layer.C.grad is not None


def test_half_the_sampling_rate_doubles_the_step():
    layer = S4D(4, 16, bidirectional=False)
    dt = layer.log_dt.exp().detach().clone()
    layer.prepare(8, rate=0.5)
    torch.testing.assert_close(layer.log_dt.exp(), 2 * dt)


@pytest.mark.parametrize("glu", [True, False])
def test_the_output_is_gated_only_if_told_to(glu):
    torch.manual_seed(0)
    layer, x = S4D(4, 8, glu=glu), torch.randn(2, 8, 4)
    value, gate = layer.out(x).split([4, 4 * glu], -1)
    torch.testing.assert_close(layer.mix(x), value * gate.sigmoid() if glu else value)
    assert layer(x, mask_of(x)).shape == x.shape


def test_kernel_parameters_declare_their_rates_and_no_weight_decay():
    groups = S4D(4, 8, lr={"dt": None, "A": 1e-3, "B": 2e-3}).optim
    assert groups["log_dt"] == {"weight_decay": 0.0}
    assert groups["A_imag"] == groups["A_log_decay"] == {"weight_decay": 0.0, "lr": 1e-3}
    assert "A_imag" not in S4D(4, 8, init="real").optim


def test_full_rank_measures_and_other_bad_options_are_refused():
    with pytest.raises(ValueError, match="init 'legt' is no diagonal system: use one of lin, inv, legs, real, or the"):
        S4D(4, 8, init="legt")
    with pytest.raises(ValueError, match="discretization: 'euler' is not one of zoh, bilinear"):
        S4D(4, 8, discretization="euler")
    with pytest.raises(ValueError, match="kernel backend 'cuda' is unknown"):
        S4D(4, 8, backend="cuda").kernel(8)
    with pytest.raises(RuntimeError, match="reads the future"):
        S4D(4, 8).setup_step()
    layer = S4D(4, 8, bidirectional=False)
    with pytest.raises(RuntimeError, match=r"call setup_step\(\) first"):
        layer.step(torch.zeros(1, 4), layer.default_state(1))
