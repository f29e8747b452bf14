"""Every state space model keeps its continuous system at another sampling rate and at another length."""

import pytest
import torch

from helpers.recurrent_steps import stepped
from models.dss import DSS
from models.h3 import H3
from models.lru import LRU
from models.lssl import LSSL
from models.mamba import Mamba
from models.mamba2 import Mamba2
from models.s4 import S4
from models.s4d import S4D
from models.s5 import S5

MAKERS = {
    "s4": lambda **k: S4(4, 400, d_state=8, **k),
    "s4d zoh": lambda **k: S4D(4, 400, d_state=8, discretization="zoh", **k),
    "s4d bilinear": lambda **k: S4D(4, 400, d_state=8, discretization="bilinear", **k),
    "dss exp": lambda **k: DSS(4, 400, d_state=4, **k),
    "dss softmax": lambda **k: DSS(4, 400, d_state=4, form="softmax", **k),
    "s5": lambda **k: S5(4, 400, d_state=8, n_blocks=2, **k),
    "lru": lambda **k: LRU(4, 400, d_state=8, r_min=0.95, r_max=0.99, max_phase=0.3, **k),
    "lssl": lambda **k: LSSL(4, 400, d_state=8, **k),
}
# the trapezoidal rule is exact to second order in the step; the others are exact for an input that is held
TRAPEZOIDAL = {"s4", "s4d bilinear", "lssl"}


def make(name, **kwargs):
    torch.manual_seed(0)
    steps = {} if name == "lru" else {"dt_min": 0.01, "dt_max": 0.02}
    return MAKERS[name](bidirectional=False, **steps, **kwargs).double().eval()


def respond(model, u):
    return model(u, torch.ones(u.shape[:2], dtype=torch.bool))


@pytest.mark.parametrize("name", MAKERS)
def test_half_the_sampling_rate_gives_the_same_response(name):
    model = make(name)
    t = torch.arange(200, dtype=torch.float64)[None, :, None]
    smooth = torch.sin(t / 20 + torch.arange(4)) * (1 - torch.exp(-t / 30))
    fine = smooth.repeat_interleave(2, 1)
    before = respond(model, fine)[:, 1::2]
    untouched = respond(model, smooth)
    model.prepare(200, rate=0.5)
    after = respond(model, smooth)
    scale = before.abs().max()
    assert (after - before).abs().max() / scale < (5e-2 if name in TRAPEZOIDAL else 1e-5)
    # and without the change of rate it does not
    assert (untouched - before).abs().max() / scale > 0.1


@pytest.mark.parametrize("name", MAKERS)
def test_there_and_back_is_where_it_was(name):
    model = make(name)
    u = torch.randn(2, 300, 4, dtype=torch.float64)
    before = respond(model, u)
    model.prepare(100, rate=0.5)
    model.prepare(400, rate=2.0)
    torch.testing.assert_close(respond(model, u), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_four_times_the_length_continues_the_same_recurrence(name):
    model = make(name)
    u = torch.randn(1, 1600, 4, dtype=torch.float64)
    short = respond(model, u[:, :400])
    model.prepare(1600)
    long = respond(model, u)
    torch.testing.assert_close(long[:, :400], short, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stepped(model, u), long, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_no_length_and_no_rate_are_refused_and_change_nothing(name):
    model = make(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for length, rate in ((0, 1.0), (400, 0.0), (400, -1.0)):
        with pytest.raises(ValueError, match=f"length={length}, rate={rate}"):
            model.prepare(length, rate=rate)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("maker", [S4, S4D, DSS, LSSL, S5, H3, Mamba, Mamba2])
@pytest.mark.parametrize(("dt_min", "dt_max"), [(0.0, 0.1), (0.2, 0.1)])
def test_time_steps_that_are_none_are_named(maker, dt_min, dt_max):
    with pytest.raises(ValueError, match=f"dt_min={dt_min} and dt_max={dt_max}"):
        maker(8, 16, dt_min=dt_min, dt_max=dt_max)


def test_empty_states_and_copies_are_refused():
    for build in (lambda: S4D(8, 16, init="lin", d_state=0), lambda: LRU(8, 16, d_state=0)):
        with pytest.raises(ValueError, match="a state of 0 is empty"):
            build()
    for maker in (S4, S4D):
        with pytest.raises(ValueError, match="n_ssm: -1 copies do not divide 8 features"):
            maker(8, 16, n_ssm=-1)
    with pytest.raises(ValueError, match="n_blocks: 0 blocks do not divide"):
        S5(8, 16, n_blocks=0)


@pytest.mark.parametrize("name", ["s4", "dss softmax"])
def test_a_checkpoint_remembers_the_length_it_was_fitted_to(name):
    model = make(name)
    model.prepare(800)
    fresh = make(name)
    fresh.load_state_dict(model.state_dict())
    u = torch.randn(1, 800, 4, dtype=torch.float64)
    torch.testing.assert_close(respond(fresh, u), respond(model, u))
