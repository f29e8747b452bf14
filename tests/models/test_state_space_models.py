"""Properties of all state-space models: initialisation, sampling rate, length, steps, learning rates."""

import pytest
import torch

from helpers.comparison import step_through
from lra.ops.hippo import MEASURES, bilinear, nplr, ssm_kernel
from models.dss import DSS
from models.h3 import H3
from models.lru import LRU
from models.lssl import LSSL
from models.mamba import Mamba
from models.mamba2 import Mamba2
from models.s4 import S4
from models.s4d import S4D
from models.s5 import S5

BUILDERS = {
    "s4": lambda **k: S4(4, 400, d_state=8, **k),
    "s4d zoh": lambda **k: S4D(4, 400, d_state=8, discretization="zoh", **k),
    "s4d bilinear": lambda **k: S4D(4, 400, d_state=8, discretization="bilinear", **k),
    "dss exp": lambda **k: DSS(4, 400, d_state=4, **k),
    "dss softmax": lambda **k: DSS(4, 400, d_state=4, form="softmax", **k),
    "s5": lambda **k: S5(4, 400, d_state=8, n_blocks=2, **k),
    "lru": lambda **k: LRU(4, 400, d_state=8, r_min=0.95, r_max=0.99, max_phase=0.3, **k),
    "lssl": lambda **k: LSSL(4, 400, d_state=8, **k),
}
# the bilinear rule is exact to second order in the step; the others are exact for an input that is held
BILINEAR = {"s4", "s4d bilinear", "lssl"}


def build(name, **options):
    torch.manual_seed(0)
    steps = {} if name == "lru" else {"dt_min": 0.01, "dt_max": 0.02}
    return BUILDERS[name](bidirectional=False, **steps, **options).double().eval()


def respond(model, u):
    return model(u, torch.ones(u.shape[:2], dtype=torch.bool))


@pytest.mark.parametrize("name", BUILDERS)
def test_half_the_sampling_rate_gives_the_same_response(name):
    model = build(name)
    t = torch.arange(200, dtype=torch.float64)[None, :, None]
    smooth = torch.sin(t / 20 + torch.arange(4)) * (1 - torch.exp(-t / 30))
    before = respond(model, smooth.repeat_interleave(2, 1))[:, 1::2]
    unadapted = respond(model, smooth)
    model.prepare(200, rate=0.5)
    after = respond(model, smooth)
    scale = before.abs().max()
    assert (after - before).abs().max() / scale < (5e-2 if name in BILINEAR else 1e-5)
    assert (unadapted - before).abs().max() / scale > 0.1


@pytest.mark.parametrize("name", BUILDERS)
def test_changes_of_rate_are_reversible(name):
    model = build(name)
    u = torch.randn(2, 300, 4, dtype=torch.float64)
    before = respond(model, u)
    model.prepare(100, rate=0.5)
    model.prepare(400, rate=2.0)
    torch.testing.assert_close(respond(model, u), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BUILDERS)
def test_longer_inputs_continue_the_same_recurrence(name):
    model = build(name)
    u = torch.randn(1, 1600, 4, dtype=torch.float64)
    short = respond(model, u[:, :400])
    torch.testing.assert_close(step_through(model, u[:, :400]), short, rtol=1e-9, atol=1e-9)
    model.prepare(1600)
    long = respond(model, u)
    torch.testing.assert_close(long[:, :400], short, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(step_through(model, u), long, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BUILDERS)
def test_bad_lengths_and_rates_change_nothing(name):
    model = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for length, rate in ((0, 1.0), (400, 0.0), (400, -1.0)):
        with pytest.raises(ValueError, match=f"length={length}, rate={rate}"):
            model.prepare(length, rate=rate)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("maker", [S4, S4D, DSS, LSSL, S5, H3, Mamba, Mamba2])
@pytest.mark.parametrize(("dt_min", "dt_max"), [(0.0, 0.1), (0.2, 0.1)])
def test_bad_time_steps_are_named(maker, dt_min, dt_max):
    with pytest.raises(ValueError, match=f"dt_min={dt_min} and dt_max={dt_max}"):
        maker(8, 16, dt_min=dt_min, dt_max=dt_max)


def test_copies_and_blocks_must_divide():
    for maker in (S4, S4D):
        with pytest.raises(ValueError, match="n_ssm: -1 copies do not divide 8 features"):
            maker(8, 16, n_ssm=-1)
    with pytest.raises(ValueError, match="n_blocks: 0 blocks do not divide"):
        S5(8, 16, n_blocks=0)


@pytest.mark.parametrize("name", ["s4", "dss softmax"])
def test_checkpoint_restores_the_length(name):
    model, restored = build(name), build(name)
    model.prepare(800)
    restored.load_state_dict(model.state_dict())
    u = torch.randn(1, 800, 4, dtype=torch.float64)
    torch.testing.assert_close(respond(restored, u), respond(model, u))


@pytest.mark.parametrize("name", BUILDERS)
def test_kernel_parameters_have_their_own_rates(name):
    model = build(name)
    assert all(model.get_parameter(parameter) is not None for parameter in model.optim)
    assert all(group == {"lr": 0.001, "weight_decay": 0.0} for group in model.optim.values())
    assert all(group == {"weight_decay": 0.0} for group in build(name, lr=None).optim.values())


@pytest.mark.parametrize("N", [1, 2, 5, 8])
@pytest.mark.parametrize("init", MEASURES)
def test_s4_starts_as_the_dense_recurrence(init, N):
    torch.manual_seed(0)
    form = nplr(init, N)
    A, B = form.dense()
    torch.manual_seed(0)
    model = S4(3, 20, d_state=N, init=init, bidirectional=False, dt_min=0.05, dt_max=0.2).double()
    K, C = model.kernel(20)[0], model.true_C()[0]
    # poles on the imaginary axis are moved a little to the left
    tolerance = 1e-3 if init in ("legt", "fout") else 1e-6
    for h in range(3):
        row = 2 * (C[h] @ form.V.mH).real
        exact = ssm_kernel(*bilinear(A, B, model.log_dt[h].exp().item()), row, 20)
        torch.testing.assert_close(K[h], exact, rtol=0, atol=tolerance * float(exact.abs().max()))


@pytest.mark.parametrize("init", MEASURES)
def test_s4_has_finite_gradients_for_every_measure(init):
    torch.manual_seed(0)
    model = S4(3, 20, d_state=8, init=init, backend="reference")
    respond(model, torch.randn(2, 20, 3)).square().mean().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name


@pytest.mark.parametrize("init", ["random", "diagonal"])
def test_random_measures_differ_with_the_seed(init):
    torch.manual_seed(0)
    one, two = (S4(3, 20, d_state=8, init=init) for _ in range(2))
    assert not torch.equal(one.A_imag, two.A_imag)


def test_measures_without_a_form_are_refused():
    with pytest.raises(ValueError, match=r"'legt'.*lin, inv, legs, real.*s4"):
        S4D(3, 20, init="legt")
    with pytest.raises(ValueError, match=r"'gaussian'.*legs"):
        S4(3, 20, init="gaussian")
    assert LSSL(3, 20, init="gaussian").kernel(20).isfinite().all()
