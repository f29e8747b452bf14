"""Steps are never taken by what the parameters were before."""

import pytest
import torch

from lra.training.optim import adamw
from models.dss import DSS
from models.lru import LRU
from models.lssl import LSSL
from models.s4 import S4
from models.s4d import S4D
from models.s5 import S5

LAYERS = [DSS, LRU, LSSL, S4, S4D, S5]


def small(layer):
    return {"d_state": 4} | ({"n_blocks": 1} if layer is S5 else {})


def changed_by_training(layer):
    with torch.no_grad():
        for p in layer.parameters():
            p.grad = torch.ones_like(p)
    adamw(layer, lr=0.01).step()


CHANGES = {
    "training": changed_by_training,
    "loading": lambda layer: layer.load_state_dict({k: v.clone() for k, v in layer.state_dict().items()}),
    "precision": lambda layer: layer.double(),
    "rate": lambda layer: layer.prepare(8, rate=0.5),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_a_step_by_former_parameters_is_refused(layer, change):
    torch.manual_seed(0)
    layer = layer(4, 8, **small(layer), bidirectional=False)
    x = torch.randn(2, 4)
    with pytest.raises(RuntimeError, match="not discretised"):
        layer.step(x, layer.default_state(2))
    layer.setup_step()
    layer.step(x, layer.default_state(2))
    CHANGES[change](layer)
    x = x.to(layer.D.dtype)
    with pytest.raises(RuntimeError, match=r"changed since setup_step\(\): call it again"):
        layer.step(x, layer.default_state(2))
    layer.setup_step()
    layer.step(x, layer.default_state(2))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_a_two_sided_layer_has_no_steps(layer):
    with pytest.raises(RuntimeError, match=f"a two-sided {layer.__name__} reads the future"):
        layer(4, 8, **small(layer), bidirectional=True).setup_step()
