import math

import pytest
import torch
import torch.nn.functional as F

from models.mega import Mega, MovingAverage, laplace, power_sums


def build(**arguments) -> Mega:
    torch.manual_seed(0)
    sizes = {"d_model": 4, "n_layers": 1, "max_len": 16, "dropout": 0.0, "d_value": 6, "d_key": 3, "d_ff": 8}
    return Mega(**(sizes | {"n_orders": 5} | arguments)).double().eval()


def average_loop(model: MovingAverage, x: torch.Tensor, reach: int) -> torch.Tensor:
    """One row (L, D), by the recurrence of equation 6; a truncated average forgets what is `reach` away."""
    alpha, delta = model.alpha.sigmoid(), model.delta.sigmoid()
    total = model.omega * x
    for direction in range(len(alpha)):
        for t in range(len(x)):
            before, behind = range(max(0, t - reach + 1), t + 1), reversed(range(t, min(len(x), t + reach)))
            h = torch.zeros_like(alpha[0])
            for s in (before, behind)[direction]:
                h = (1 - alpha * delta)[direction] * h + (alpha * model.beta)[direction] * x[s, :, None]
            total = total + F.one_hot(torch.tensor(t), len(x))[:, None] * (model.gamma[direction] * h).sum(
                -1
            ) / math.sqrt(h.shape[-1])
    return F.silu(total)


@pytest.mark.parametrize("length", [1, 2, 9, 100])
def test_power_sums_equal_their_definition(length):
    c, log_q = torch.randn(3, 4, dtype=torch.float64), -torch.rand(3, 4, dtype=torch.float64)
    expected = (c[..., None] * torch.exp(log_q[..., None] * torch.arange(length))).sum(1)
    torch.testing.assert_close(power_sums(c, log_q, length), expected)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("truncation", [None, 4])
def test_the_moving_average_obeys_its_recurrence(bidirectional, truncation):
    torch.manual_seed(0)
    model = MovingAverage(3, n_orders=4, bidirectional=bidirectional, truncation=truncation).double()
    x = torch.randn(1, 11, 3, dtype=torch.float64, requires_grad=True)
    actual, expected = model(x)[0], average_loop(model, x[0], truncation or 11)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(actual)
    inputs = (x, *model.parameters())
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), inputs) for y in (actual, expected)))


@pytest.mark.parametrize("attention", ["softmax", "laplace"])
@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("prenorm", [True, False])
def test_a_layer_obeys_its_equations(attention, chunk, prenorm):
    model = build(attention=attention, chunk=chunk, prenorm=prenorm)
    layer = model.blocks[0]
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_()  # as they start, scores, gates and biases are near zero
    x = torch.randn(4, 11, 4, dtype=torch.float64, requires_grad=True)
    lengths = (11, 6, 1, 5)
    mask = torch.arange(11) < torch.tensor(lengths)[:, None]
    expected = []
    for row, length in enumerate(lengths):
        given = x[row, :length]
        h = layer.norm(given, None) if prenorm else given
        base = layer.maps(layer.average(h[None])[0])
        update, z, reset, bypass = base.split([4, 3, 6, 4], dim=-1)
        q, k = (F.silu(z) * layer.scale[i] + layer.shift[i] for i in (0, 1))
        v = F.silu(layer.value(h))
        rows = []
        for t in range(length):
            start = 0 if chunk is None else t // chunk * chunk
            end = length if chunk is None else min(start + chunk, length)
            bias = torch.stack([layer.bias[(len(layer.bias) - 1) // 2 + s - t] for s in range(start, end)])
            scores = torch.stack([q[t] @ k[s] for s in range(start, end)])
            if attention == "softmax":
                weights = (scores / math.sqrt(3) + bias).softmax(0)
            else:
                shifted = scores / (end - start) + bias
                weights = (1 + torch.erf((shifted - math.sqrt(0.5)) / math.sqrt(2 / (4 * math.pi)))) / 2
            rows.append(weights @ v[start:end])
        y = F.silu(bypass + layer.out(torch.stack(rows) * F.silu(reset)))
        out = update.sigmoid() * y + (1 - update.sigmoid()) * given
        expected.append(out if prenorm else layer.norm(out, None))
    actual, expected = layer(x, mask)[mask], torch.cat(expected)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(actual)
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), x)[0] for y in (actual, expected)))


def test_laplace_meets_the_squared_relu_at_its_mean():
    at = torch.tensor(math.sqrt(0.5), dtype=torch.float64, requires_grad=True)
    value = laplace(at)
    slope = torch.autograd.grad(value, at)[0]
    assert value.item() == pytest.approx(at.item() ** 2)
    assert slope.item() == pytest.approx(2 * at.item())


def test_chunks_shorter_than_the_input_do_not_see_each_other():
    model = build(chunk=4)
    layer = model.blocks[0]
    q, k, v = (torch.randn(1, 8, n, dtype=torch.float64, requires_grad=True) for n in (3, 3, 6))
    y = layer.attend(q, k, v, torch.ones(1, 8, dtype=torch.bool))
    grad = torch.autograd.grad(y[:, :4].sum(), v)[0]
    assert bool((grad[:, :4] != 0).all())
    assert not grad[:, 4:].any()


def test_widths_follow_the_models_unless_told():
    model = build(d_value=None, d_key=None, d_ff=None)
    assert model.blocks[0].widths == [4, 2, 8, 4]
    assert model.blocks[1].layer[0].out_features == 8


def test_an_unknown_attention_is_refused():
    with pytest.raises(ValueError, match="attention: 'relu'"):
        build(attention="relu")
