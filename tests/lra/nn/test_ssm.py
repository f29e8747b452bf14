"""Steps never use outdated parameters."""

import copy
import pickle

import pytest
import torch

from lra.training.optim import adamw
from models.dss import DSS
from models.lru import LRU
from models.lssl import LSSL
from models.s4 import S4
from models.s4d import S4D
from models.s5 import S5

LAYERS = pytest.mark.parametrize("layer", [DSS, LRU, LSSL, S4, S4D, S5], ids=lambda layer: layer.__name__)


def small(layer, *, bidirectional):
    blocks = {"n_blocks": 1} if layer is S5 else {}
    return layer(4, 8, d_state=4, **blocks, bidirectional=bidirectional)


def train(layer, optimizer=adamw):
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    optimizer(layer, lr=0.01).step()


def fused(layer, lr):
    return torch.optim.AdamW(layer.parameters(), lr=lr, fused=True)


CHANGES = {
    "training": train,
    "fused optimiser": lambda layer: train(layer, fused),
    "data": lambda layer: layer.D.data.add_(0.1),
    "one value": lambda layer: next(layer.parameters()).data.view(-1)[:1].add_(0.1),
    "loading": lambda layer: layer.load_state_dict({k: 1.1 * v for k, v in layer.state_dict().items()}),
    "precision": lambda layer: layer.double(),
    "rate": lambda layer: layer.prepare(8, rate=0.5),
}


@pytest.mark.parametrize("change", CHANGES)
@LAYERS
def test_outdated_steps_are_refused(layer, change):
    torch.manual_seed(0)
    layer = small(layer, bidirectional=False)
    x = torch.randn(2, 4)
    with pytest.raises(RuntimeError, match="not discretised"):
        layer.step(x, layer.default_state(2))
    layer.setup_step()
    layer.step(x, layer.default_state(2))
    CHANGES[change](layer)
    x = x.to(layer.D.dtype)
    with pytest.raises(RuntimeError, match="changed since setup_step"):
        layer.step(x, layer.default_state(2))
    layer.setup_step()
    layer.step(x, layer.default_state(2))


@LAYERS
def test_a_copy_of_a_layer_steps_like_the_layer(layer):
    torch.manual_seed(0)
    layer = small(layer, bidirectional=False)
    x = torch.randn(2, 4)
    layer.setup_step()
    expected = layer.step(x, layer.default_state(2))[0]
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied.step(x, copied.default_state(2))[0], expected)
        with torch.no_grad():
            copied.D.add_(0.1)
        with pytest.raises(RuntimeError, match="changed since setup_step"):
            copied.step(x, copied.default_state(2))
    # the same weights again are no change
    layer.load_state_dict(copy.deepcopy(layer.state_dict()))
    assert torch.equal(layer.step(x, layer.default_state(2))[0], expected)


@LAYERS
def test_a_step_does_not_compare_values(layer, monkeypatch):
    """Only the beginning of a sequence does, and a step after a sign of change."""
    torch.manual_seed(0)
    layer = small(layer, bidirectional=False)
    x, compared = torch.randn(2, 4), []
    monkeypatch.setattr("lra.nn.ssm._same", lambda a, b: compared.append(a) or torch.equal(a, b))
    layer.setup_step()
    state = layer.default_state(2)
    layer.step(x, state)
    assert len(compared) == len(list(layer.parameters(recurse=False)))
    layer.step(x, state)
    assert len(compared) == len(list(layer.parameters(recurse=False)))
    layer.eval()
    layer.step(x, state)
    assert len(compared) == 2 * len(list(layer.parameters(recurse=False)))


@pytest.mark.parametrize("change", sorted(set(CHANGES) - {"data", "one value"}))
@LAYERS
def test_changes_in_the_middle_of_a_sequence_are_refused(layer, change):
    """All but those through `.data`, which the next sequence notices."""
    torch.manual_seed(0)
    layer = small(layer, bidirectional=False)
    layer.setup_step()
    state = layer.default_state(2)
    layer.step(torch.randn(2, 4), state)
    CHANGES[change](layer)
    with pytest.raises(RuntimeError, match="changed since setup_step"):
        layer.step(torch.randn(2, 4, dtype=layer.D.dtype), state)


@pytest.mark.parametrize("layer", [DSS, LSSL, S4, S4D], ids=lambda layer: layer.__name__)
def test_prefill_notices_changes_through_data(layer):
    """That of LRU and S5 does not use the discretised system."""
    torch.manual_seed(0)
    layer = small(layer, bidirectional=False)
    layer.setup_step()
    x, mask = torch.randn(2, 5, 4), torch.ones(2, 5, dtype=torch.bool)
    layer.prefill(x, mask)
    layer.D.data.add_(0.1)
    with pytest.raises(RuntimeError, match="changed since setup_step"):
        layer.prefill(x, mask)


def test_a_layer_made_in_inference_mode_steps():
    with torch.inference_mode():
        layer = small(S4, bidirectional=False)
        layer.setup_step()
        x, state = torch.randn(2, 4), layer.default_state(2)
        layer.step(x, state)
        layer.D.add_(0.1)
        with pytest.raises(RuntimeError, match="changed since setup_step"):
            layer.step(x, state)


def test_fixed_parameters_of_lssl_are_watched():
    layer = LSSL(4, 8, d_state=4, learn=False, bidirectional=False)
    layer.setup_step()
    layer.prepare(8, rate=0.5)
    with pytest.raises(RuntimeError, match="changed since setup_step"):
        layer.step(torch.randn(2, 4), layer.default_state(2))


@LAYERS
def test_two_sided_layers_have_no_steps(layer):
    with pytest.raises(RuntimeError, match=f"a two-sided {layer.__name__} reads the future"):
        small(layer, bidirectional=True).setup_step()
