import pytest
import torch
from transformers import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from models.mamba2 import Mamba2, ssd


def loop(x: torch.Tensor, log_a: torch.Tensor, B: torch.Tensor, C: torch.Tensor) -> torch.Tensor:
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
    # a decay of 400 a step empties the state within one chunk
    log_a = -decay * torch.rand(2, length, 3, dtype=torch.float64)
    B, C = torch.randn(2, 2, length, 5, dtype=torch.float64)
    inputs = [part.clone().requires_grad_() for part in (x, log_a, B, C)]
    actual, expected = ssd(*inputs, chunk=8), loop(*inputs)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(actual)
    grads = [torch.autograd.grad((y * weight).sum(), inputs) for y in (actual, expected)]
    torch.testing.assert_close(*grads)


def test_equals_the_transformers_implementation():
    torch.manual_seed(0)
    config = Mamba2Config(
        hidden_size=32, state_size=8, head_dim=16, num_heads=4, n_groups=1, expand=2, chunk_size=8, num_hidden_layers=1
    )
    ours, theirs = Mamba2(32, 64, d_state=8, head_dim=16, chunk=4), Mamba2Mixer(config, 0)
    names = {"in_proj": "into", "out_proj": "out", "norm": "norm", "conv1d": "forwards.conv", "D": "forwards.D"}
    names |= {"A_log": "forwards.log_A", "dt_bias": "forwards.dt_bias"}
    weights = {}
    for name, value in theirs.state_dict().items():
        head, *rest = name.split(".")
        weights[".".join([names[head], *rest])] = value
    ours.load_state_dict(weights)
    x = torch.randn(3, 21, 32, requires_grad=True)
    mask = torch.arange(21) < torch.tensor([21, 9, 1])[:, None]
    expected, actual = theirs(x, attention_mask=mask.long())[mask], ours(x, mask)[mask]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(actual)
    grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (actual, expected)]
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-4)


def test_the_second_direction_reads_each_row_from_its_last_real_position():
    torch.manual_seed(0)
    model = Mamba2(8, 32, d_state=4, head_dim=8, chunk=4, bidirectional=True).double()
    # the same weights for both directions: turning a row around turns its output around
    model.backwards.load_state_dict(model.forwards.state_dict())
    x = torch.randn(2, 12, 8, dtype=torch.float64)
    mask = torch.arange(12) < torch.tensor([12, 5])[:, None]
    y = model(x, mask)
    for row, length in enumerate((12, 5)):
        turned = model(x[row : row + 1, :length].flip(1), mask[row : row + 1, :length])
        torch.testing.assert_close(turned.flip(1)[0], y[row, :length])


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="head_dim: 12"):
        Mamba2(16, 8, head_dim=12)
