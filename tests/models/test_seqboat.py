"""SeqBoat against its definition, position by position."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers.comparison import assert_same, by_row, ragged
from models.seqboat import SeqBoat


def build(**arguments) -> SeqBoat:
    torch.manual_seed(0)
    sizes = {"d_model": 4, "n_layers": 1, "max_len": 32, "dropout": 0.0, "d_value": 6, "d_key": 3, "n_orders": 2}
    model = SeqBoat(**(sizes | {"window": 3} | arguments)).double().eval()
    with torch.no_grad():
        for layer in model.layers:
            layer.scale.mul_(50)  # initially every score is near zero
            layer.attention.bias.mul_(50)
    return model


@pytest.mark.parametrize("attention", ["softmax", "relu2"])
@pytest.mark.parametrize("distance", ["compressed", "original"])
@pytest.mark.parametrize("prenorm", [True, False])
def test_layer_obeys_its_definition(attention, distance, prenorm):
    layer = build(attention=attention, distance=distance, prenorm=prenorm).layers[0]
    selected = 0

    def naive(x):
        nonlocal selected
        m = layer.average((layer.norm(x, None) if prenorm else x)[None])[0]
        probability = (layer.router(m) / layer.log_temperature.exp()).softmax(-1)
        chosen = [t for t in range(len(x)) if probability[t, 1] > probability[t, 0]]
        selected += len(chosen)
        h = [torch.zeros(4, dtype=torch.float64) for _ in x]
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
            h[t] = probability[t, 1] * layer.out(weights @ torch.stack(values) * reset)
        y = F.silu(x + layer.bypass(m) + torch.stack(h))
        return y if prenorm else layer.norm(y, None)

    x, mask = ragged(4, 25, 11, 1, seed=1)
    assert_same(layer(x, mask)[mask], by_row(naive, x, mask), [x, *layer.parameters()])
    assert 5 < selected < 32


def test_attention_runs_only_on_selected_positions():
    layer, lengths = build().layers[0], []
    layer.attention.register_forward_hook(lambda module, inputs, output: lengths.append(inputs[0].shape[1]))
    active = torch.zeros(2, 30, dtype=torch.bool)
    active[0, [3, 9, 20]] = True
    active[1, [29]] = True
    y = layer.activate(torch.randn(2, 30, 4, dtype=torch.float64), active)
    assert lengths == [3]
    assert torch.equal((y != 0).any(-1), active)
    assert not layer.activate(y, torch.zeros_like(active)).any()


@pytest.mark.parametrize("arguments", [{"attention": "laplace"}, {"distance": "far"}])
def test_unknown_options_are_refused(arguments):
    with pytest.raises(ValueError, match="is not one of"):
        build(**arguments)
