"""The setting `reach`: proven by gradient that no input farther away counts, and that those within it do."""

from functools import partial

import pytest
import torch

from lra.nn.classifier import Classifier
from lra.nn.multiscale import MultiScale
from lra.task import TaskSpec
from models.s4 import S4
from models.transformer import Attention

L, D = 24, 4
LAYERS = {
    "s4": partial(S4, d_state=8),
    "s4 causal": partial(S4, d_state=8, bidirectional=False),
    "attention": partial(Attention, n_heads=2),
    "attention causal": partial(Attention, n_heads=2, causal=True),
}


def layer(name: str, reach: int | None):
    torch.manual_seed(0)
    return LAYERS[name](D, L, reach=reach).double().eval()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("reach", [1, 2, 7])
def test_only_near_inputs_have_a_gradient(name, reach):
    x = torch.randn(1, L, D, dtype=torch.float64, requires_grad=True)
    y = layer(name, reach)(x, torch.ones(1, L, dtype=torch.bool))
    for t in range(L):
        (gradient,) = torch.autograd.grad((y[0, t] * torch.arange(1, D + 1)).sum(), x, retain_graph=True)
        heard = gradient[0].abs().sum(-1) > 1e-12
        away = t - torch.arange(L)
        assert heard.tolist() == ((away < reach) & (away > (-1 if "causal" in name else -reach))).tolist()


@pytest.mark.parametrize("name", LAYERS)
def test_a_reach_of_the_whole_input_changes_nothing(name):
    x, mask = torch.randn(2, L, D, dtype=torch.float64), torch.ones(2, L, dtype=torch.bool)
    mask[0, 15:] = False
    whole, near = (layer(name, reach)(x, mask)[mask] for reach in (None, L))
    torch.testing.assert_close(near, whole)
    assert not torch.allclose(layer(name, 5)(x, mask)[mask], whole)


def test_cached_attention_keeps_to_its_reach():
    attention = layer("attention causal", 5)
    x, mask = torch.randn(2, L, D, dtype=torch.float64), torch.ones(2, L, dtype=torch.bool)
    state, outputs = attention.default_state(2), []
    for position in x.unbind(1):
        y, state = attention.step(position, state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), attention(x, mask))


def test_a_model_with_a_cut_kernel_says_that_it_has_no_steps():
    spec = TaskSpec("test", L, 5, 6, horizon=L, causal=True)
    for encoder in ({"mixer": partial(LAYERS["s4 causal"], reach=3)}, {"mixer": LAYERS["s4 causal"]}):
        pooled = {"encoder": partial(MultiScale, pool=(2,), **encoder)}
        for parts in (encoder, pooled):
            reason = Classifier(spec, d_model=D, n_layers=1, **parts).no_steps()
            assert reason == ("S4 with reach=3 has no recurrence; hint: reach=None" if "reach" in str(parts) else None)


def test_what_cannot_be():
    with pytest.raises(RuntimeError, match="reach=3 has no recurrence"):
        layer("s4 causal", 3).setup_step()
    for name in LAYERS:
        with pytest.raises(ValueError, match="reach: 0 is not a positive number"):
            layer(name, 0)
