import math

import pytest
import torch
import torch.nn.functional as F

from models.seqboat import SeqBoat


def build(**arguments) -> SeqBoat:
    torch.manual_seed(0)
    sizes = {"d_model": 4, "n_layers": 1, "max_len": 32, "dropout": 0.0, "d_value": 6, "d_key": 3, "n_orders": 2}
    model = SeqBoat(**(sizes | {"window": 3} | arguments)).double().eval()
    with torch.no_grad():
        for layer in model.layers:
            layer.scale.mul_(50)  # otherwise every score is near zero
            layer.attention.bias.mul_(50)
    return model


@pytest.mark.parametrize("attention", ["softmax", "relu2"])
@pytest.mark.parametrize("distance", ["compressed", "original"])
@pytest.mark.parametrize("prenorm", [True, False])
def test_a_layer_obeys_its_definition(attention, distance, prenorm):
    model = build(attention=attention, distance=distance, prenorm=prenorm)
    layer = model.layers[0]
    x = torch.randn(3, 25, 4, dtype=torch.float64, requires_grad=True)
    lengths = (25, 11, 1)
    mask = torch.arange(25) < torch.tensor(lengths)[:, None]
    expected, used = [], 0
    for row, length in enumerate(lengths):
        given = x[row, :length]
        m = layer.average((layer.norm(given, None) if prenorm else given)[None])[0]
        certainty = (layer.router(m) / layer.log_temperature.exp()).softmax(-1)
        chosen = [t for t in range(length) if certainty[t, 1] > certainty[t, 0]]
        used += len(chosen)
        h = [torch.zeros(4, dtype=torch.float64) for _ in range(length)]
        for i, t in enumerate(chosen):
            z, reset, _ = F.silu(layer.maps(m[t])).split([3, 6, 6])
            q = z * layer.scale[0] + layer.shift[0]
            scores, values = [], []
            for j, s in enumerate(chosen):
                if abs(i - j) <= 3:
                    z, _, v = F.silu(layer.maps(m[s])).split([3, 6, 6])
                    k = z * layer.scale[1] + layer.shift[1]
                    bias = layer.attention.bias[(j - i + 3) if distance == "compressed" else (s - t + 31)]
                    scores.append(q @ k / (math.sqrt(3) if attention == "softmax" else 6) + bias)
                    values.append(v)
            scores = torch.stack(scores)
            weights = scores.softmax(0) if attention == "softmax" else scores.clamp(min=0) ** 2
            h[t] = certainty[t, 1] * layer.out(weights @ torch.stack(values) * reset)
        y = F.silu(given + layer.bypass(m) + torch.stack(h))
        expected.append(y if prenorm else layer.norm(y, None))
    assert 5 < used < sum(lengths) - 5
    actual, expected = layer(x, mask)[mask], torch.cat(expected)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(actual)
    inputs = (x, *layer.parameters())
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), inputs) for y in (actual, expected)))


def test_the_attention_runs_on_the_selected_positions_only():
    model = build()
    layer = model.layers[0]
    seen = []
    layer.attention.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    averaged = torch.randn(2, 30, 4, dtype=torch.float64)
    active = torch.zeros(2, 30, dtype=torch.bool)
    active[0, [3, 9, 20]] = True
    active[1, [29]] = True
    y = layer.activate(averaged, active)
    assert seen == [3]
    assert torch.equal((y != 0).any(-1), active)


def test_nothing_selected_means_nothing_added():
    layer = build().layers[0]
    y = layer.activate(torch.randn(2, 9, 4, dtype=torch.float64), torch.zeros(2, 9, dtype=torch.bool))
    assert not y.any()


@pytest.mark.parametrize("arguments", [{"attention": "laplace"}, {"distance": "far"}])
def test_unknown_kinds_are_refused(arguments):
    with pytest.raises(ValueError, match="is not one of"):
        build(**arguments)
