import math

import pytest
import torch

from models.h3 import H3


def build(**arguments) -> H3:
    torch.manual_seed(0)
    return H3(6, 16, **({"d_state": 4, "dt_min": 0.05, "dt_max": 0.5} | arguments)).double().eval()


def state_space(model: H3, direction: int, length: int) -> torch.Tensor:
    """Impulse response (G, L) by stepping x' = A x + u under the bilinear rule, for both halves of each pair."""
    A = torch.complex(-model.A_log_decay.exp(), model.A_imag)
    C = torch.view_as_complex(model.C)[direction]
    dt = model.log_dt.exp()[:, None]
    state, taps = dt / (1 - dt * A / 2), []
    for _ in range(length):
        taps.append(2 * (C * state).sum(-1).real)
        state = (1 + dt * A / 2) / (1 - dt * A / 2) * state
    return torch.stack(taps, -1)


def convolve(u: torch.Tensor, kernels: list[torch.Tensor], skip: torch.Tensor) -> torch.Tensor:
    """One row (features, L) by a loop; kernels (features, M) from the left and, if there are two, from the right."""
    length = u.shape[1]
    y = []
    for t in range(length):
        value = skip * u[:, t]
        for s in range(length):
            lag = t - s if s <= t else s - t - 1
            if (s <= t or len(kernels) == 2) and lag < kernels[0].shape[-1]:
                value = value + kernels[int(s > t)][:, lag] * u[:, s]
        y.append(value)
    return torch.stack(y, -1)


@pytest.mark.parametrize("head_dim", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_a_loop_over_positions_and_heads(head_dim, bidirectional):
    model = build(head_dim=head_dim, bidirectional=bidirectional)
    x = torch.randn(3, 11, 6, dtype=torch.float64, requires_grad=True)
    lengths = (11, 5, 1)
    mask = torch.arange(11) < torch.tensor(lengths)[:, None]
    diagonal = [state_space(model, direction, 11) for direction in range(1 + bidirectional)]
    expected = []
    for row, length in enumerate(lengths):
        q, k, v = model.maps(x[row, :length]).T.chunk(3)  # each (D, L)
        k = convolve(k, list(model.shift), model.shift_D)
        y = [torch.zeros(length, dtype=torch.float64) for _ in range(6)]
        for g in range(6 // head_dim):
            for i in range(head_dim):
                for j in range(head_dim):
                    key, value = g * head_dim + i, g * head_dim + j
                    kernels = [taps[g : g + 1] for taps in diagonal]
                    seen = convolve((k[key] * v[value])[None], kernels, model.D[g : g + 1])[0]
                    y[value] = y[value] + q[key] * seen
        expected.append(model.out(torch.stack(y, -1)))
    actual, expected = model(x, mask)[mask], torch.cat(expected)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(actual)
    inputs = (x, *model.parameters())
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), inputs) for y in (actual, expected)))


def test_the_diagonal_state_space_starts_as_s4d_lin():
    model = build(d_state=6)
    assert model.A_log_decay.exp().unique().item() == pytest.approx(0.5)
    torch.testing.assert_close(model.A_imag[0], math.pi * torch.arange(3).double(), rtol=1e-6, atol=0)


def test_both_output_maps_start_at_the_authors_sizes():
    torch.manual_seed(0)
    model = H3(256, 64, d_state=16)
    assert model.shift.abs().max().item() <= 1 / math.sqrt(16)
    assert model.shift.std().item() == pytest.approx(1 / math.sqrt(3 * 16), rel=0.05)
    assert model.C.square().sum(-1).mean().item() == pytest.approx(1, rel=0.1)


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="head_dim: 4"):
        build(head_dim=4)
