import pytest
import torch
from torch import Tensor

from models.dilated_cnn import DilatedCNN


def build(**arguments: int) -> DilatedCNN:
    torch.manual_seed(0)
    return DilatedCNN(**({"d_model": 4, "n_layers": 6, "max_len": 8, "dropout": 0.0} | arguments)).double().eval()


def taps(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Centred convolution of one row (L, D) as a sum over the positions that exist."""
    length, size = len(x), weight.shape[-1]
    y = x.new_zeros(length, len(weight))
    for t in range(length):
        for k in range(size):
            source = t + (k - size // 2) * dilation
            if 0 <= source < length:
                y[t] = y[t] + weight[:, :, k] @ x[source]
    return y


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_equals_a_loop_over_positions(kernel_size):
    model = build(kernel_size=kernel_size)
    x = torch.randn(3, 11, 4, dtype=torch.float64, requires_grad=True)
    lengths = (11, 6, 1)
    mask = torch.arange(11) < torch.tensor(lengths)[:, None]
    expected = []
    for row, length in enumerate(lengths):
        h, total = x[row, :length], 0.0
        for i, gate in enumerate(model.gates):
            value, opening = (taps(h, gate.conv.weight, (1, 2, 4)[i % 3]) + gate.conv.bias).chunk(2, dim=-1)
            z = value.tanh() * opening.sigmoid()
            total = total + model.skips[i](z)
            if i < 5:
                h = h + model.residuals[i](z)
        expected.append(model.out(total.relu()))
    actual, expected = model(x, mask)[mask], torch.cat(expected)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(actual)
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), x)[0] for y in (actual, expected)))


@pytest.mark.parametrize("max_len", [1, 2, 16, 31, 33])
def test_one_cycle_lets_the_centre_see_both_ends(max_len):
    model = build(max_len=max_len, n_layers=1)
    x = torch.randn(1, max_len, 4, dtype=torch.float64, requires_grad=True)
    y = model(x, torch.ones(1, max_len, dtype=torch.bool))
    grad = torch.autograd.grad(y[0, max_len // 2].sum(), x)[0]
    assert bool((grad != 0).any(-1).all())


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel_size: 4"):
        build(kernel_size=4)
