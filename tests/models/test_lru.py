"""LRU against a loop over positions written from the paper's equations."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers.comparison import assert_same, by_row, ragged
from models.lru import LRU, ring


def build(H=6, **options):
    torch.manual_seed(0)
    return LRU(H, 64, d_state=5, **options).double()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_a_loop_over_positions(bidirectional):
    model = build(bidirectional=bidirectional)
    a = torch.exp(-torch.exp(model.nu) + 1j * torch.exp(model.theta))
    B = (model.B[..., 0] + 1j * model.B[..., 1]) * model.log_gamma.exp()[:, None]
    C = model.C[..., 0] + 1j * model.C[..., 1]

    def loop(row):
        y = [model.D * u for u in row]
        for k in range(len(C)):
            h = torch.zeros(len(a), dtype=a.dtype)
            for t in reversed(range(len(row))) if k else range(len(row)):
                h = a * h + B @ row[t].to(a.dtype)
                y[t] = y[t] + (C[k] @ h).real
        value, gate = model.out(F.gelu(torch.stack(y))).chunk(2, -1)
        return value * torch.sigmoid(gate)

    x, mask = ragged(6, 11, 7, 1)
    assert_same(model(x, mask)[mask], by_row(loop, x, mask), [x, *model.parameters()])


def test_recurrence_is_stable_for_any_parameters():
    model = build()
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
    # uniform in area: half of them are inside the radius that halves the ring's area
    half = math.sqrt((0.4**2 + 0.8**2) / 2)
    assert abs((a.abs() < half).double().mean() - 0.5) < 0.02


def test_gamma_keeps_the_state_at_the_size_of_its_input():
    # white noise through h = a h + gamma b has E|h|^2 = E|b|^2 when gamma^2 = 1 - |a|^2
    model = build(r_min=0.5, r_max=0.99)
    a, gamma = model.system()[0], model.log_gamma.exp()
    torch.testing.assert_close(gamma**2 / (1 - a.abs() ** 2), torch.ones(5, dtype=torch.float64), rtol=1e-5, atol=0)


def test_ring_must_be_in_the_unit_disc():
    with pytest.raises(ValueError, match=r"0.9 to 1.2"):
        build(r_min=0.9, r_max=1.2)
    assert (build(r_min=0.0, r_max=1.0).system()[0].abs() < 1).all()
