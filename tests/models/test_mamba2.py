"""Mamba-2 against the transformers library and against a loop."""

import pytest
import torch
from transformers import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from helpers.comparison import assert_same, load_renamed
from models.mamba2 import Mamba2, ssd


def loop(x, log_a, B, C):
    h, outputs = 0.0, []
    for t in range(x.shape[1]):
        h = log_a[:, t].exp()[..., None, None] * h + B[:, t, None, :, None] * x[:, t, :, None, :]  # (B, H, N, P)
        outputs.append((C[:, t, None, :, None] * h).sum(2))
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("length", [1, 7, 8, 45])
@pytest.mark.parametrize("decay", [0.1, 400.0])
def test_chunks_equal_a_loop(length, decay):
    torch.manual_seed(0)
    x = torch.randn(2, length, 3, 4, dtype=torch.float64)
    # a decay of 400 per step empties the state within one chunk
    log_a = -decay * torch.rand(2, length, 3, dtype=torch.float64)
    B, C = torch.randn(2, 2, length, 5, dtype=torch.float64)
    inputs = [part.clone().requires_grad_() for part in (x, log_a, B, C)]
    assert_same(ssd(*inputs, chunk=8)[0], loop(*inputs), inputs)


def test_equals_transformers_library():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "state_size": 8, "head_dim": 16, "num_heads": 4, "n_groups": 1, "expand": 2}
    theirs = Mamba2Mixer(Mamba2Config(**sizes, chunk_size=8, num_hidden_layers=1), 0)
    ours = Mamba2(32, 64, d_state=8, head_dim=16, chunk=4)
    names = {"in_proj": "into", "out_proj": "out", "norm": "norm", "conv1d": "forwards.conv", "D": "forwards.D"}
    load_renamed(ours, theirs, names | {"A_log": "forwards.log_A", "dt_bias": "forwards.dt_bias"})
    x = torch.randn(3, 21, 32, requires_grad=True)
    mask = torch.arange(21) < torch.tensor([21, 9, 1])[:, None]
    assert_same(ours(x, mask)[mask], theirs(x, attention_mask=mask.long())[mask], [x], rtol=1e-3, atol=1e-4)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="head_dim: 12"):
        Mamba2(16, 8, head_dim=12)
