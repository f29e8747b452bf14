"""Backbone at several resolutions: causal, and equal in one pass, in parts and step by step."""

from functools import partial

import pytest
import torch

from lra.nn.multiscale import MultiScale, UpPool
from models.gru import GRU
from models.s4 import S4

MIXERS = {"s4": partial(S4, bidirectional=False, d_state=8), "gru": partial(GRU, bidirectional=False)}


def multiscale(mixer: str, length: int = 30, **options) -> MultiScale:
    torch.manual_seed(0)
    options = {"pool": (3, 2), "n_layers": 1, "d_model": 4, **options}
    return MultiScale(mixer=MIXERS[mixer], max_len=length, **options).double().eval()


def test_no_position_hears_a_later_one():
    model, mask = multiscale("s4"), torch.ones(1, 30, dtype=torch.bool)
    x = torch.randn(1, 30, 4, dtype=torch.float64, requires_grad=True)
    y = model(x, mask)
    for t in range(30):
        (gradient,) = torch.autograd.grad(y[0, t].square().sum(), x, retain_graph=True)
        assert gradient[0, t + 1 :].abs().sum() < 1e-12
        assert gradient[0, : t + 1].abs().sum() > 1e-6
    assert model.causal
    assert not MultiScale(mixer=partial(S4, d_state=8), d_model=4, n_layers=1, max_len=30).causal


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("cuts", [[1] * 30, [30], [12, 18], [5, 1, 20, 4]])
def test_parts_equal_the_whole(mixer, cuts):
    model, mask = multiscale(mixer), torch.ones(2, 30, dtype=torch.bool)
    x = torch.randn(2, 30, 4, dtype=torch.float64)
    model.setup_step()
    state, outputs = model.default_state(2), []
    for part in x.split(cuts, dim=1):
        if part.shape[1] == 1:
            y, state = model.step(part[:, 0], state)
            y = y[:, None]
        else:
            y, state = model.prefill(part, mask[:, : part.shape[1]], state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), model(x, mask), rtol=1e-9, atol=1e-9)


def test_a_length_that_pooling_does_not_divide_is_padded():
    model = multiscale("s4", length=30)
    x = torch.randn(2, 29, 4, dtype=torch.float64)
    longer = torch.cat([x, torch.randn(2, 1, 4, dtype=torch.float64)], 1)
    whole = model(longer, torch.ones(2, 30, dtype=torch.bool))
    torch.testing.assert_close(model(x, torch.ones(2, 29, dtype=torch.bool)), whole[:, :29])


def test_rows_of_different_lengths_are_refused():
    model, mask = multiscale("s4"), torch.ones(2, 30, dtype=torch.bool)
    mask[0, 20:] = False
    with pytest.raises(ValueError, match="different lengths"):
        model.prefill(torch.randn(2, 30, 4).double(), mask)


def test_pooling_up_waits_for_the_whole_group():
    up = UpPool(2, 3, 2)
    x = torch.randn(1, 4, 4)
    y = up(x)
    assert not y[:, :3].any()
    torch.testing.assert_close(y[:, 3:], up.spread(x)[:, :-3])


def test_blocks_of_all_resolutions():
    assert len(multiscale("s4").blocks) == 2 * 5  # a mixer and a feed-forward network, at 2 + 2 + 1 places
