"""MEGA against its recurrence and equations."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers.comparison import assert_same, by_row, ragged
from models.mega import Mega, MovingAverage, laplace, power_sums


def build(**arguments) -> Mega:
    torch.manual_seed(0)
    sizes = {"d_model": 4, "n_layers": 1, "max_len": 16, "dropout": 0.0, "d_value": 6, "d_key": 3, "d_ff": 8}
    return Mega(**(sizes | {"n_orders": 5} | arguments)).double().eval()


def average_loop(model, x, reach):
    """One row (L, D), by the recurrence of equation 6; a truncated average forgets inputs `reach` positions away."""
    alpha, delta = model.alpha.sigmoid(), model.delta.sigmoid()
    y = []
    for t in range(len(x)):
        total = model.omega * x[t]
        sources = (range(max(0, t - reach + 1), t + 1), reversed(range(t, min(len(x), t + reach))))
        for direction in range(len(alpha)):
            h = torch.zeros_like(alpha[0])
            for s in sources[direction]:
                h = (1 - alpha * delta)[direction] * h + (alpha * model.beta)[direction] * x[s, :, None]
            total = total + (model.gamma[direction] * h).sum(-1) / math.sqrt(h.shape[-1])
        y.append(total)
    return F.silu(torch.stack(y))


@pytest.mark.parametrize("length", [1, 2, 9, 100])
def test_power_sums_equal_their_definition(length):
    c, log_q = torch.randn(3, 4, dtype=torch.float64), -torch.rand(3, 4, dtype=torch.float64)
    expected = (c[..., None] * torch.exp(log_q[..., None] * torch.arange(length))).sum(1)
    torch.testing.assert_close(power_sums(c, log_q, length), expected)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("truncation", [None, 4])
def test_moving_average_obeys_its_recurrence(bidirectional, truncation):
    torch.manual_seed(0)
    model = MovingAverage(3, n_orders=4, bidirectional=bidirectional, truncation=truncation).double()
    x, _ = ragged(3, 11)
    assert_same(model(x)[0], average_loop(model, x[0], truncation or 11), [x, *model.parameters()])


@pytest.mark.parametrize("attention", ["softmax", "laplace"])
@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("prenorm", [True, False])
def test_layer_obeys_its_equations(attention, chunk, prenorm):
    layer = build(attention=attention, chunk=chunk, prenorm=prenorm).blocks[0]
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_()  # initially scores, gates and biases are near zero

    def naive(x):
        h = layer.norm(x, None) if prenorm else x
        update, z, reset, bypass = layer.maps(layer.average(h[None])[0]).split([4, 3, 6, 4], dim=-1)
        q, k = (F.silu(z) * layer.scale[i] + layer.shift[i] for i in (0, 1))
        v, rows = F.silu(layer.value(h)), []
        for t in range(len(x)):
            start = 0 if chunk is None else t // chunk * chunk
            end = len(x) if chunk is None else min(start + chunk, len(x))
            bias = torch.stack([layer.bias[(len(layer.bias) - 1) // 2 + s - t] for s in range(start, end)])
            scores = torch.stack([q[t] @ k[s] for s in range(start, end)])
            if attention == "softmax":
                weights = (scores / math.sqrt(3) + bias).softmax(0)
            else:
                shifted = scores / (end - start) + bias
                weights = (1 + torch.erf((shifted - math.sqrt(0.5)) / math.sqrt(2 / (4 * math.pi)))) / 2
            rows.append(weights @ v[start:end])
        y = F.silu(bypass + layer.out(torch.stack(rows) * F.silu(reset)))
        out = update.sigmoid() * y + (1 - update.sigmoid()) * x
        return out if prenorm else layer.norm(out, None)

    x, mask = ragged(4, 11, 6, 1, 5)
    assert_same(layer(x, mask)[mask], by_row(naive, x, mask), [x])


def test_laplace_touches_the_squared_relu():
    mean = torch.tensor(math.sqrt(0.5), dtype=torch.float64, requires_grad=True)
    value = laplace(mean)
    assert value.item() == pytest.approx(mean.item() ** 2)
    assert torch.autograd.grad(value, mean)[0].item() == pytest.approx(2 * mean.item())


def test_chunks_do_not_see_each_other():
    layer = build(chunk=4).blocks[0]
    q, k, v = (torch.randn(1, 8, n, dtype=torch.float64, requires_grad=True) for n in (3, 3, 6))
    y = layer.attend(q, k, v, torch.ones(1, 8, dtype=torch.bool))
    grad = torch.autograd.grad(y[:, :4].sum(), v)[0]
    assert (grad[:, :4] != 0).all()
    assert not grad[:, 4:].any()


def test_default_widths_follow_d_model():
    model = build(d_value=None, d_key=None, d_ff=None)
    assert model.blocks[0].widths == [4, 2, 8, 4]
    assert model.blocks[1].layer[0].out_features == 8


def test_unknown_attention_is_refused():
    with pytest.raises(ValueError, match="attention: 'relu'"):
        build(attention="relu")
