"""CDIL-CNN against torch's circular convolution and against a loop over taps."""

import pytest
import torch
from torch import nn

from helpers.comparison import assert_same, by_row, ragged
from models.cdil_cnn import CDIL, Block


def build(**arguments: int) -> CDIL:
    torch.manual_seed(0)
    return CDIL(**({"d_model": 4, "n_layers": 1, "max_len": 16, "dropout": 0.0} | arguments)).double().eval()


@pytest.mark.parametrize(("length", "dilation"), [(9, 1), (9, 4), (5, 2), (8, 8)])
def test_equals_torch_circular_convolution(length, dilation):
    block = Block(4, kernel_size=3, dilation=dilation, dropout=0.0).double()
    theirs = nn.Conv1d(4, 4, 3, padding=dilation, dilation=dilation, padding_mode="circular").double()
    with torch.no_grad():
        theirs.weight.copy_(block.conv.weight)
        theirs.bias.copy_(block.conv.bias)
    x, mask = ragged(4, length, length)
    assert_same(block(x, mask.sum(1)), x + theirs(x.mT).mT.relu(), [x])


def test_equals_a_loop_over_taps():
    model = build(kernel_size=5)

    def loop(h):
        for i, block in enumerate(model.blocks):
            taps = torch.stack([h.roll(-(tap - 2) * 2**i, 0) for tap in range(5)])  # (k, L, D)
            h = h + (torch.einsum("kld,edk->le", taps, block.conv.weight) + block.conv.bias).relu()
        return h

    x, mask = ragged(4, 11, 6, 1)
    assert_same(model(x, mask)[mask], by_row(loop, x, mask), [x])


def test_rotating_the_input_rotates_the_output():
    model, (x, mask) = build(), ragged(4, 13)
    torch.testing.assert_close(model(x.roll(5, 1), mask), model(x, mask).roll(5, 1))


@pytest.mark.parametrize(("max_len", "published"), [(1024, 9), (2000, 10), (4000, 11)])
def test_least_depth_is_the_published_one(max_len, published):
    assert len(build(max_len=max_len).blocks) == published
    deeper = build(max_len=max_len, n_layers=published + 2)
    assert [block.reach for block in deeper.blocks[-3:]] == [2 ** (published - 1), 1, 2]


def test_even_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel_size: 4"):
        build(kernel_size=4)
