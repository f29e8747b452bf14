"""HGRN2 against a loop over positions."""

import math

import pytest
import torch

from helpers.comparison import assert_same, ragged
from models.hgrn2 import HGRN2, LEAST_GATE, Recurrence, expanded_recurrence


def build(**arguments) -> HGRN2:
    torch.manual_seed(0)
    sizes = {"d_model": 8, "n_layers": 3, "max_len": 64, "dropout": 0.0, "d_ff": 8, "head_dim": 4}
    return HGRN2(**(sizes | arguments)).double().eval()


def loop(q, k, v, log_f):
    state, outputs = 0.0, []
    for t in range(q.shape[1]):
        state = log_f[:, t, ..., None].exp() * state + k[:, t, ..., None] * v[:, t, :, None, :]  # (B, H, K, K)
        outputs.append((q[:, t, ..., None] * state).sum(2))
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("length", [1, 15, 16, 50])
def test_chunks_equal_a_loop(length):
    torch.manual_seed(0)
    q, k, v, gate = torch.randn(4, 2, length, 3, 4, dtype=torch.float64)
    log_f = (LEAST_GATE + (1 - LEAST_GATE) * (3 * gate).sigmoid()).log()
    inputs = [part.clone().requires_grad_() for part in (q, k, v, log_f)]
    assert_same(expanded_recurrence(*inputs)[0], loop(*inputs), inputs)


def test_fastest_decay_is_exact_in_float32():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 64, 2, 128)
    log_f = torch.full_like(q, math.log(LEAST_GATE)).requires_grad_()
    actual = expanded_recurrence(q, k, v, log_f)[0]
    expected = loop(*(part.double() for part in (q, k, v, log_f)))
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.autograd.grad(actual.sum(), log_f)[0].isfinite().all()


def test_gates_follow_the_equations():
    torch.manual_seed(0)
    model = Recurrence(8, 4).double()
    x, bound = torch.randn(1, 9, 8, dtype=torch.float64), torch.rand(8, dtype=torch.float64)
    v, q, f = model.maps(x).chunk(3, dim=-1)
    f = bound + (1 - bound) * f.sigmoid()
    parts = (q.sigmoid(), 1 - f, v * v.sigmoid(), f.log())
    expected = loop(*(part.unflatten(-1, (2, 4)) for part in parts)).flatten(-2)
    torch.testing.assert_close(model(x, torch.ones(1, 9, dtype=torch.bool), bound), expected)


def test_gate_bounds_rise_with_depth():
    model = build()
    torch.nn.init.normal_(model.shares)
    bounds = model.bounds(torch.zeros(1, 1, 8, dtype=torch.float64))
    shares = model.shares.softmax(0)
    torch.testing.assert_close(bounds, torch.stack([LEAST_GATE + 0 * shares[0], shares[0], shares[0] + shares[1]]))
    assert (bounds.diff(dim=0) > 0).all()
    assert (bounds < 1).all()


def test_second_direction_starts_at_the_last_real_position():
    model = build(bidirectional=True)
    for block in model.blocks:
        block.backwards.load_state_dict(block.forwards.state_dict())
    x, mask = ragged(8, 40, 5)
    y = model(x, mask)
    for row, length in enumerate((40, 5)):
        reversed_output = model(x[row : row + 1, :length].flip(1), mask[row : row + 1, :length])
        torch.testing.assert_close(reversed_output.flip(1)[0], y[row, :length])


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="head_dim: 3"):
        build(head_dim=3)
