"""Steps never use outdated parameters."""

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


def train(layer):
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    adamw(layer, lr=0.01).step()


CHANGES = {
    "training": train,
    "loading": lambda layer: layer.load_state_dict({k: v.clone() for k, v in layer.state_dict().items()}),
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
def test_two_sided_layers_have_no_steps(layer):
    with pytest.raises(RuntimeError, match=f"a two-sided {layer.__name__} reads the future"):
        small(layer, bidirectional=True).setup_step()
