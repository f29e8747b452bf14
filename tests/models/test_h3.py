"""H3 against a loop over positions and heads."""

import math

import pytest
import torch

from helpers.comparison import assert_same, by_row, convolve, ragged
from models.h3 import H3


def build(**arguments) -> H3:
    torch.manual_seed(0)
    return H3(6, 16, **({"d_state": 4, "dt_min": 0.05, "dt_max": 0.5} | arguments)).double().eval()


def impulse_response(model, length):
    """(K, G, L) by stepping x' = A x + u under the bilinear rule, one of each conjugate pair."""
    A, C = torch.complex(-model.A_log_decay.exp(), model.A_imag), torch.view_as_complex(model.C)
    dt = model.log_dt.exp()[:, None]
    state, taps = dt / (1 - dt * A / 2), []
    for _ in range(length):
        taps.append(2 * (C * state).sum(-1).real)
        state = (1 + dt * A / 2) / (1 - dt * A / 2) * state
    return torch.stack(taps, -1)


@pytest.mark.parametrize("head_dim", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_a_loop_over_positions_and_heads(head_dim, bidirectional):
    model = build(head_dim=head_dim, bidirectional=bidirectional)
    diagonal = impulse_response(model, 11)

    def loop(u):
        q, k, v = model.maps(u).chunk(3, -1)  # each (L, D)
        k = convolve(k, model.shift, model.shift_D)
        y = [0.0] * 6
        for g in range(6 // head_dim):
            for i in range(head_dim):
                for j in range(head_dim):
                    key, value = g * head_dim + i, g * head_dim + j
                    product = (k[:, key] * v[:, value])[:, None]
                    y[value] = y[value] + q[:, key] * convolve(product, diagonal[:, g : g + 1], model.D[g])[:, 0]
        return model.out(torch.stack(y, -1))

    x, mask = ragged(6, 11, 5, 1)
    assert_same(model(x, mask)[mask], by_row(loop, x, mask), [x, *model.parameters()])


def test_diagonal_state_space_starts_as_s4d_lin():
    model = build(d_state=6)
    assert model.A_log_decay.exp().unique().item() == pytest.approx(0.5)
    torch.testing.assert_close(model.A_imag[0], math.pi * torch.arange(3).double(), rtol=1e-6, atol=0)


def test_output_maps_start_at_the_authors_sizes():
    torch.manual_seed(0)
    model = H3(256, 64, d_state=16)
    assert model.shift.abs().max().item() <= 1 / math.sqrt(16)
    assert model.shift.std().item() == pytest.approx(1 / math.sqrt(3 * 16), rel=0.05)
    assert model.C.square().sum(-1).mean().item() == pytest.approx(1, rel=0.1)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="head_dim: 4"):
        build(head_dim=4)
