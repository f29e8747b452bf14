"""Mamba against the transformers library; the second direction of Mamba and Mamba-2."""

import pytest
import torch
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from helpers.comparison import assert_same, load_renamed, ragged
from models.mamba import Mamba
from models.mamba2 import Mamba2


def test_equals_transformers_library():
    torch.manual_seed(0)
    config = MambaConfig(hidden_size=32, state_size=8, expand=2, conv_kernel=4, time_step_rank=2, num_hidden_layers=1)
    ours, theirs = Mamba(32, 64, d_state=8), MambaMixer(config, 0)
    names = {"in_proj": "into", "conv1d": "forwards.conv", "x_proj": "forwards.select", "dt_proj": "forwards.dt"}
    load_renamed(ours, theirs, names | {"A_log": "forwards.log_A", "D": "forwards.D", "out_proj": "out"})
    x = torch.randn(3, 21, 32, requires_grad=True)
    mask = torch.arange(21) < torch.tensor([21, 9, 1])[:, None]
    assert_same(ours(x, mask)[mask], theirs(x, attention_mask=mask.long())[mask], [x], rtol=1e-4, atol=1e-5)


def test_step_sizes_start_within_their_bounds():
    dt = torch.nn.functional.softplus(Mamba(64, 8, dt_min=0.01, dt_max=0.02).forwards.dt.bias)
    assert 0.0099 < dt.min() < dt.max() < 0.0201


@pytest.mark.parametrize(("kind", "options"), [(Mamba, {}), (Mamba2, {"head_dim": 8, "chunk": 4})])
def test_second_direction_starts_at_the_last_real_position(kind, options):
    torch.manual_seed(0)
    model = kind(8, 32, d_state=4, bidirectional=True, **options).double()
    # the same weights in both directions: reversing a row reverses its output
    model.backwards.load_state_dict(model.forwards.state_dict())
    x, mask = ragged(8, 12, 5)
    y = model(x, mask)
    for row, length in enumerate((12, 5)):
        reversed_output = model(x[row : row + 1, :length].flip(1), mask[row : row + 1, :length])
        torch.testing.assert_close(reversed_output.flip(1)[0], y[row, :length])
