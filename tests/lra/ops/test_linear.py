"""Matrix products by oneDNN against torch.nn.functional.linear."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lra.ops import linear as ops
from lra.ops.fftconv import only_torch
from lra.ops.linear import Linear, linear, speed_up


@pytest.fixture
def onednn(monkeypatch):
    """As if MKL were slow on this processor; counts the products by oneDNN."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    calls = []
    real = ops.by_onednn
    monkeypatch.setattr(ops, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(ops, "by_onednn", lambda *inputs: calls.append(1) or real(*inputs))
    return calls


def value_and_gradients(function, *inputs):
    y = function(*inputs)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(y.shape, generator=generator)
    return y, *torch.autograd.grad(y, [x for x in inputs if x is not None], weight)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_equals_torch_in_values_and_gradients(layout, bias, onednn):
    torch.manual_seed(0)
    x = torch.randn(3, 700, 24) if layout == "contiguous" else torch.randn(3, 24, 700).mT
    inputs = [x.requires_grad_(), torch.randn(40, 24, requires_grad=True), torch.randn(40, requires_grad=True)]
    inputs[2] = inputs[2] if bias else None
    found, expected = value_and_gradients(linear, *inputs), value_and_gradients(F.linear, *inputs)
    assert len(onednn) == 3
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() <= 2e-6 * b.norm()


def test_second_derivative_equals_torch(onednn):
    torch.manual_seed(0)
    x, weight = torch.randn(2000, 20, requires_grad=True), torch.randn(20, 20, requires_grad=True)
    results = []
    for function in (linear, F.linear):
        (gradient,) = torch.autograd.grad(function(x, weight).pow(3).mean(), x, create_graph=True)
        results.append(torch.autograd.grad(gradient.square().sum(), weight)[0])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-8)


def test_only_large_products_of_float32_change(onednn):
    x, weight = torch.randn(2000, 20), torch.randn(20, 20)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    with only_torch():
        linear(x, weight)
    linear(x.double(), weight.double())
    linear(x[:8], weight)
    torch.func.vmap(linear, in_dims=(0, None))(x[None], weight)
    assert onednn == []


def test_layers_of_a_model_keep_their_parameters(onednn):
    torch.manual_seed(0)
    before = nn.Sequential(nn.Linear(20, 30), nn.Bilinear(2, 2, 2), nn.Sequential(nn.Linear(30, 5)))
    model = copy.deepcopy(before)
    speed_up(model)
    assert [type(m) for m in (model[0], model[1], model[2][0])] == [Linear, nn.Bilinear, Linear]
    assert all(map(torch.equal, model.state_dict().values(), before.state_dict().values()))
    x = torch.randn(2000, 20)
    torch.testing.assert_close(model[2](model[0](x)), before[2](before[0](x)))
    assert len(onednn) == 2
