import math

import pytest
import torch

from models.hyena import Filters, Hyena


def build(**arguments) -> Hyena:
    torch.manual_seed(0)
    return Hyena(4, 16, **({"filter_width": 8, "filter_bands": 3} | arguments)).double().eval()


def test_filters_obey_their_definition():
    torch.manual_seed(0)
    filters = Filters(5, 2, 16, width=8, bands=3, frequency=2.0).double()
    for t in (0, 1, 7):
        code = [torch.tensor([t / 15])]
        code += [torch.cos(torch.tensor([2 * math.pi * t / 16 * f])) for f in (1e-4, 1.00005, 2.0)]
        code += [-torch.sin(torch.tensor([2 * math.pi * t / 16 * f])) for f in (1e-4, 1.00005, 2.0)]
        h = torch.cat(code).double()
        for layer in filters.layers:
            h = torch.sin(filters.frequency * (layer.weight @ h + layer.bias))
        window = [0.01 ** (t / 15 / reach) for reach in (1 / torch.linspace(1 / 1.5, 1 / 0.3, 5)).tolist()]
        expected = (filters.out.weight @ h).view(2, 5) * torch.tensor(window)
        torch.testing.assert_close(filters(9)[..., t], expected, rtol=1e-5, atol=1e-6)


def test_windows_decay_to_one_percent_between_their_reaches():
    filters = Filters(2, 1, 16, width=8, bands=3, frequency=2.0)
    torch.testing.assert_close(torch.exp(-filters.decay * torch.tensor([1.5, 0.3])), torch.tensor([0.01, 0.01]))


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_a_loop_over_positions(order, bidirectional):
    model = build(order=order, bidirectional=bidirectional)
    x = torch.randn(3, 11, 4, dtype=torch.float64, requires_grad=True)
    lengths = (11, 6, 1)
    mask = torch.arange(11) < torch.tensor(lengths)[:, None]
    kernels = model.filters(11).unflatten(1, (4, order - 1)).transpose(1, 2)  # (K, order - 1, D, L)
    expected = []
    for row, length in enumerate(lengths):
        u = model.maps(x[row, :length])
        offset = 1 if bidirectional else 2
        short = []
        for t in range(length):
            seen = [(k, t + k - offset) for k in range(3) if 0 <= t + k - offset < length]
            short.append(model.short.bias + sum(model.short.weight[:, 0, k] * u[s] for k, s in seen))
        *factors, v = torch.stack(short).chunk(order + 1, dim=-1)
        for i, factor in enumerate(reversed(factors[1:])):
            v, given = [], v * factor
            for t in range(length):
                terms = [model.skip[i] * given[t]]
                terms += [kernels[0, i, :, t - s] * given[s] for s in range(t + 1)]
                terms += [kernels[1, i, :, s - t - 1] * given[s] for s in range(t + 1, length) if bidirectional]
                v.append(sum(terms))
            v = torch.stack(v)
        expected.append(model.out(v * factors[0]))
    actual, expected = model(x, mask)[mask], torch.cat(expected)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(actual)
    inputs = (x, *model.parameters())
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), inputs) for y in (actual, expected)))


def test_every_convolution_has_slow_and_fast_windows(monkeypatch):
    model, used = build(order=4), []
    monkeypatch.setattr("models.hyena.long_conv", lambda u, kernel, skip: used.append(kernel[0]) or u)
    with torch.no_grad():
        # a network that writes a one everywhere leaves the windows
        last, out = model.filters.layers[-1], model.filters.out
        last.weight.zero_()
        last.bias.copy_(math.pi / 2 / model.filters.frequency)
        out.weight.fill_(1 / out.in_features)
        model(torch.randn(1, 16, 4, dtype=torch.float64), torch.ones(1, 16, dtype=torch.bool))
    assert len(used) == 3
    for windows in used:
        rate = torch.log(windows[:, -1]) / math.log(0.01)  # from 1 / 1.5 to 1 / 0.3
        assert rate.min() < 1.3
        assert rate.max() > 2.7


def test_the_default_operator_is_causal():
    model = build()
    x = torch.randn(1, 11, 4, dtype=torch.float64, requires_grad=True)
    grad = torch.autograd.grad(model(x, torch.ones(1, 11, dtype=torch.bool))[0, 5].sum(), x)[0][0]
    assert grad[:6].abs().min() > 1e-9
    assert grad[6:].abs().max() < 1e-15  # the rounding of a transform


def test_an_order_without_a_convolution_is_refused():
    with pytest.raises(ValueError, match="order: 1"):
        build(order=1)
