"""Hyena against a loop over positions, and its filters against their definition."""

import math

import pytest
import torch

from helpers.comparison import assert_same, by_row, convolve, ragged
from models.hyena import Filters, Hyena


def build(**arguments) -> Hyena:
    torch.manual_seed(0)
    return Hyena(4, 16, **({"filter_width": 8, "filter_bands": 3} | arguments)).double().eval()


def test_filters_follow_their_definition():
    torch.manual_seed(0)
    filters = Filters(5, 2, 16, width=8, bands=3, frequency=2.0).double()
    for t in (0, 1, 7):
        angles = 2 * math.pi * t / 16 * torch.tensor([1e-4, 1.00005, 2.0])
        h = torch.cat([torch.tensor([t / 15]), angles.cos(), -angles.sin()]).double()
        for layer in filters.layers:
            h = torch.sin(filters.frequency * (layer.weight @ h + layer.bias))
        window = [0.01 ** (t / 15 / reach) for reach in (1 / torch.linspace(1 / 1.5, 1 / 0.3, 5)).tolist()]
        expected = (filters.out.weight @ h).view(2, 5) * torch.tensor(window)
        torch.testing.assert_close(filters(9)[..., t], expected, rtol=1e-5, atol=1e-6)


def test_windows_decay_to_one_percent():
    filters = Filters(2, 1, 16, width=8, bands=3, frequency=2.0)
    torch.testing.assert_close(torch.exp(-filters.decay * torch.tensor([1.5, 0.3])), torch.tensor([0.01, 0.01]))


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_a_loop_over_positions(order, bidirectional):
    model = build(order=order, bidirectional=bidirectional)
    kernels = model.filters(11).unflatten(1, (4, order - 1)).transpose(1, 2)  # (K, order - 1, D, L)
    offset = 1 if bidirectional else 2

    def loop(row):
        u, short = model.maps(row), []
        for t in range(len(u)):
            seen = [(k, t + k - offset) for k in range(3) if 0 <= t + k - offset < len(u)]
            short.append(model.short.bias + sum(model.short.weight[:, 0, k] * u[s] for k, s in seen))
        *factors, v = torch.stack(short).chunk(order + 1, dim=-1)
        for i, factor in enumerate(reversed(factors[1:])):
            v = convolve(v * factor, kernels[:, i], model.skip[i])
        return model.out(v * factors[0])

    x, mask = ragged(4, 11, 6, 1)
    assert_same(model(x, mask)[mask], by_row(loop, x, mask), [x, *model.parameters()])


def test_convolutions_have_slow_and_fast_windows(monkeypatch):
    model, used = build(order=4), []
    monkeypatch.setattr("models.hyena.long_conv", lambda u, kernel, skip: used.append(kernel[0]) or u)
    with torch.no_grad():
        # the output of the network is one everywhere, so that the kernels are the windows
        last, out = model.filters.layers[-1], model.filters.out
        last.weight.zero_()
        last.bias.copy_(math.pi / 2 / model.filters.frequency)
        out.weight.fill_(1 / out.in_features)
        model(*ragged(4, 16))
    assert len(used) == 3
    for windows in used:
        rate = torch.log(windows[:, -1]) / math.log(0.01)  # from 1 / 1.5 to 1 / 0.3
        assert rate.min() < 1.3
        assert rate.max() > 2.7


def test_default_operator_is_causal():
    model, (x, mask) = build(), ragged(4, 11)
    grad = torch.autograd.grad(model(x, mask)[0, 5].sum(), x)[0][0]
    assert grad[:6].abs().min() > 1e-9
    assert grad[6:].abs().max() < 1e-15  # the rounding of a transform


def test_order_one_is_refused():
    with pytest.raises(ValueError, match="order: 1"):
        build(order=1)


def test_weights_keep_the_length_they_were_trained_with():
    trained, longer = build(), Hyena(4, 40, filter_width=8, filter_bands=3).double().eval()
    state = trained.state_dict()
    longer.load_state_dict(state)
    taps = longer.filters(40)
    torch.testing.assert_close(taps[..., :16], trained.filters(16))
    assert longer.filters.t[30] == 30 / 15
    assert taps[..., 16:].abs().max() > 0
    # saved before the length was
    del state["filters._extra_state"]
    trained.load_state_dict(state)
    torch.testing.assert_close(trained.filters(16), taps[..., :16])
