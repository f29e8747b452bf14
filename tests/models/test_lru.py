"""LRU against a loop over positions written from the paper's equations."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers.recurrent_steps import stepped
from models.lru import LRU, ring


def layer(H=6, **kwargs):
    torch.manual_seed(0)
    return LRU(H, 64, d_state=5, **kwargs).double()


def naive(model, x, mask):
    """One row and one position at a time, in complex arithmetic."""
    a = torch.exp(-torch.exp(model.nu) + 1j * torch.exp(model.theta))
    B = (model.B[..., 0] + 1j * model.B[..., 1]) * model.log_gamma.exp()[:, None]
    C = model.C[..., 0] + 1j * model.C[..., 1]
    out = torch.zeros_like(x)
    rows = []
    for row, real in zip(x, mask, strict=True):
        length = int(real.sum())
        y = [model.D * u for u in row[:length]]
        for k in range(len(C)):
            h = torch.zeros(len(a), dtype=a.dtype)
            for t in reversed(range(length)) if k else range(length):
                h = a * h + B @ row[t].to(a.dtype)
                y[t] = y[t] + (C[k] @ h).real
        y = model.out(F.gelu(torch.stack(y)))
        value, gate = y.chunk(2, -1)
        rows.append(torch.cat([value * torch.sigmoid(gate), out[0, length:]]))
    return torch.stack(rows)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_layer_is_the_loop_in_values_and_gradients(bidirectional, ragged, assert_same):
    model = layer(bidirectional=bidirectional)
    x, mask = ragged(6, 11, 7, 1)
    assert_same(model(x, mask), naive(model, x, mask), [x, *model.parameters()], mask)


def test_steps_equal_the_parallel_view(ragged):
    model = layer(bidirectional=False)
    x, mask = ragged(6, 20, 20)
    torch.testing.assert_close(stepped(model, x), model(x, mask), rtol=1e-10, atol=1e-12)


def test_step_says_what_is_missing():
    with pytest.raises(RuntimeError, match="setup_step"):
        layer(bidirectional=False).step(torch.zeros(1, 6).double(), torch.zeros(1, 5))
    with pytest.raises(RuntimeError, match="bidirectional=False"):
        layer(bidirectional=True).setup_step()


def test_any_parameters_give_a_stable_recurrence():
    model = layer()
    with torch.no_grad():
        model.nu.normal_(std=5)
    assert (model.system()[0].abs() < 1).all()


def test_eigenvalues_start_uniform_on_the_ring():
    torch.manual_seed(0)
    nu, theta = ring(20000, 0.4, 0.8, math.pi)
    a = torch.exp(torch.complex(-nu.exp(), theta.exp()))
    assert a.abs().min() >= 0.4 - 1e-4
    assert a.abs().max() <= 0.8 + 1e-4
    assert theta.exp().max() <= math.pi + 1e-4
    # uniform in area: half of them inside the radius that halves the ring's area
    half = math.sqrt((0.4**2 + 0.8**2) / 2)
    assert abs((a.abs() < half).double().mean() - 0.5) < 0.02


def test_gamma_keeps_the_state_at_the_size_of_its_input():
    # white noise through h = a h + gamma b has E|h|^2 = E|b|^2 when gamma^2 = 1 - |a|^2
    model = layer(r_min=0.5, r_max=0.99)
    a, gamma = model.system()[0], model.log_gamma.exp()
    torch.testing.assert_close(gamma**2 / (1 - a.abs() ** 2), torch.ones(5, dtype=torch.float64), rtol=1e-5, atol=0)


@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_another_sampling_rate_gives_the_same_motion(rate):
    model = layer(bidirectional=False)
    # one held input, seen at steps of one and at steps of 1 / rate
    held = torch.randn(1, 1, 6, dtype=torch.float64)
    slow, fast = (1, 2) if rate == 2 else (2, 1)
    mask = torch.ones(1, 40 * slow, dtype=torch.bool)
    before = model(held.expand(1, 40 * slow, 6), mask)[:, slow - 1 :: slow]
    model.prepare(64, rate=rate)
    mask = torch.ones(1, 40 * fast, dtype=torch.bool)
    after = model(held.expand(1, 40 * fast, 6), mask)[:, fast - 1 :: fast]
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)


def test_recurrence_has_its_own_learning_rate_without_decay():
    model = layer()
    assert set(model.optim) == {"nu", "theta", "log_gamma"}
    assert all(model.get_parameter(name) is not None for name in model.optim)
    assert all(group == {"lr": 0.001, "weight_decay": 0.0} for group in model.optim.values())
    assert "lr" not in layer(lr=None).optim["nu"]


def test_ring_outside_the_unit_disc_is_refused():
    with pytest.raises(ValueError, match=r"0.9 to 1.2"):
        layer(r_min=0.9, r_max=1.2)
    assert (layer(r_min=0.0, r_max=1.0).system()[0].abs() < 1).all()
