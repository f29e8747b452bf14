import pytest
import torch
from torch import nn

from models.cdil_cnn import CDIL, Block


def build(**arguments: int) -> CDIL:
    torch.manual_seed(0)
    return CDIL(**({"d_model": 4, "n_layers": 1, "max_len": 16, "dropout": 0.0} | arguments)).double().eval()


@pytest.mark.parametrize(("length", "dilation"), [(9, 1), (9, 4), (5, 2), (8, 8)])
def test_a_row_without_padding_equals_torch_circular_convolution(length, dilation):
    block = Block(4, kernel_size=3, dilation=dilation, dropout=0.0).double()
    theirs = nn.Conv1d(4, 4, 3, padding=dilation, dilation=dilation, padding_mode="circular").double()
    with torch.no_grad():
        theirs.weight.copy_(block.conv.weight)
        theirs.bias.copy_(block.conv.bias)
    x = torch.randn(2, length, 4, dtype=torch.float64, requires_grad=True)
    expected = x + theirs(x.transpose(1, 2)).transpose(1, 2).relu()
    actual = block(x, torch.tensor([length, length]))
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(actual)
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), x)[0] for y in (actual, expected)))


def test_equals_a_loop_over_each_rows_own_ring():
    model = build(kernel_size=5)
    x, lengths = torch.randn(3, 11, 4, dtype=torch.float64), (11, 6, 1)
    actual = model(x, torch.arange(11) < torch.tensor(lengths)[:, None])
    for row, length in enumerate(lengths):
        h = x[row, :length]
        for i, block in enumerate(model.blocks):
            taps = torch.stack([h.roll(-(tap - 2) * 2**i, 0) for tap in range(5)])  # (k, L, D)
            h = h + (torch.einsum("kld,edk->le", taps, block.conv.weight) + block.conv.bias).relu()
        torch.testing.assert_close(actual[row, :length], h)


def test_turning_the_ring_turns_the_output():
    model, mask = build(), torch.ones(1, 13, dtype=torch.bool)
    x = torch.randn(1, 13, 4, dtype=torch.float64)
    torch.testing.assert_close(model(x.roll(5, 1), mask), model(x, mask).roll(5, 1))


@pytest.mark.parametrize(("max_len", "published"), [(1024, 9), (2000, 10), (4000, 11)])
def test_the_least_depth_is_the_published_one(max_len, published):
    assert len(build(max_len=max_len).blocks) == published
    deeper = build(max_len=max_len, n_layers=published + 2)
    assert [block.reach for block in deeper.blocks[-3:]] == [2 ** (published - 1), 1, 2]


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel_size: 4"):
        build(kernel_size=4)
