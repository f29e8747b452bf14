import pytest
import torch
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from models.mamba import Mamba


@pytest.fixture
def pair() -> tuple[Mamba, MambaMixer]:
    torch.manual_seed(0)
    config = MambaConfig(hidden_size=32, state_size=8, expand=2, conv_kernel=4, time_step_rank=2, num_hidden_layers=1)
    ours, theirs = Mamba(32, 64, d_state=8), MambaMixer(config, 0)
    names = {"in_proj": "into", "conv1d": "forwards.conv", "x_proj": "forwards.select", "dt_proj": "forwards.dt"}
    names |= {"A_log": "forwards.log_A", "D": "forwards.D", "out_proj": "out"}
    weights = {}
    for name, value in theirs.state_dict().items():
        head, *rest = name.split(".")
        weights[".".join([names[head], *rest])] = value
    ours.load_state_dict(weights)
    return ours, theirs


def test_equals_the_transformers_implementation(pair):
    ours, theirs = pair
    x = torch.randn(3, 21, 32, requires_grad=True)
    mask = torch.arange(21) < torch.tensor([21, 9, 1])[:, None]
    expected, actual = theirs(x, attention_mask=mask.long())[mask], ours(x, mask)[mask]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(actual)
    grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (actual, expected)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_step_sizes_start_within_their_bounds():
    bias = Mamba(64, 8, dt_min=0.01, dt_max=0.02).forwards.dt.bias
    dt = torch.nn.functional.softplus(bias)
    assert 0.0099 < dt.min() < dt.max() < 0.0201


def test_the_second_direction_reads_each_row_from_its_last_real_position():
    torch.manual_seed(0)
    model = Mamba(8, 32, d_state=4, bidirectional=True).double()
    x = torch.randn(2, 12, 8, dtype=torch.float64)
    mask = torch.arange(12) < torch.tensor([12, 5])[:, None]
    # the same weights for both directions: turning a row around turns its output around
    model.backwards.load_state_dict(model.forwards.state_dict())
    y = model(x, mask)
    for row, length in enumerate((12, 5)):
        turned = model(x[row : row + 1, :length].flip(1), mask[row : row + 1, :length])
        torch.testing.assert_close(turned.flip(1)[0], y[row, :length])
