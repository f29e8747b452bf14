"""The dilated CNN against a loop over positions."""

import pytest
import torch

from helpers.comparison import assert_same, by_row, ragged
from models.dilated_cnn import DilatedCNN


def build(**arguments: int) -> DilatedCNN:
    torch.manual_seed(0)
    return DilatedCNN(**({"d_model": 4, "n_layers": 6, "max_len": 8, "dropout": 0.0} | arguments)).double().eval()


def convolution(x, weight, dilation):
    """Centred convolution of one row (L, D) as a sum over the positions that exist."""
    length, size = len(x), weight.shape[-1]
    y = list(x.new_zeros(length, len(weight)))
    for t in range(length):
        for k in range(size):
            source = t + (k - size // 2) * dilation
            if 0 <= source < length:
                y[t] = y[t] + weight[:, :, k] @ x[source]
    return torch.stack(y)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_equals_a_loop_over_positions(kernel_size):
    model = build(kernel_size=kernel_size)

    def loop(h):
        total = 0.0
        for i, gate in enumerate(model.gates):
            value, sigma = (convolution(h, gate.conv.weight, (1, 2, 4)[i % 3]) + gate.conv.bias).chunk(2, dim=-1)
            z = value.tanh() * sigma.sigmoid()
            total = total + model.skips[i](z)
            if i < 5:
                h = h + model.residuals[i](z)
        return model.out(total.relu())

    x, mask = ragged(4, 11, 6, 1)
    assert_same(model(x, mask)[mask], by_row(loop, x, mask), [x])


@pytest.mark.parametrize("max_len", [1, 2, 16, 31, 33])
def test_centre_sees_both_ends_after_one_cycle(max_len):
    model, (x, mask) = build(max_len=max_len, n_layers=1), ragged(4, max_len)
    grad = torch.autograd.grad(model(x, mask)[0, max_len // 2].sum(), x)[0]
    assert (grad != 0).any(-1).all()


def test_even_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel_size: 4"):
        build(kernel_size=4)
