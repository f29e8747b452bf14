"""Attention that is recomputed in the backward pass drops the same weights there."""

import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from helpers.comparison import ragged
from models.bigbird import BigBird
from models.longformer import Longformer


@pytest.mark.parametrize(
    ("mixer", "options"), [(BigBird, {"block": 2, "n_random": 1}), (Longformer, {"window": 4})]
)  # fmt: skip
def test_dropout_is_the_same_when_recomputed(mixer, options, monkeypatch):
    torch.manual_seed(0)
    layer = mixer(8, 40, n_heads=2, dropout=0.5, **options).double()
    x, mask = ragged(8, 30, 17)
    gradients = []
    for run in (checkpoint, lambda function, *args, **_: function(*args)):
        monkeypatch.setattr(sys.modules[mixer.__module__], "checkpoint", run)
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad(layer(x, mask)[mask].square().sum(), x)[0])
    torch.testing.assert_close(*gradients)
