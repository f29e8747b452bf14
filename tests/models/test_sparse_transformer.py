"""The two patterns against dense attention under their masks, written from the paper's set definitions."""

import pytest
import torch

from helpers.comparison import assert_same, dense_attention, ragged
from models.sparse_transformer import SparseTransformer


def fixed(i, j, width, n_summary):
    return i // width == j // width or j % width >= width - n_summary


def strided(i, j, width, n_summary):
    return abs(i - j) < width or (i - j) % width == 0


@pytest.mark.parametrize("pattern", [fixed, strided])
@pytest.mark.parametrize("lengths", [(20, 11), (14, 6), (18, 5, 1), (3, 2)])
def test_equals_masked_dense_attention(pattern, lengths):
    torch.manual_seed(0)
    options = {"pattern": pattern.__name__, "block": 4, "n_summary": 2, "n_heads": 2, "d_qkv": 6, "dropout": 0.5}
    mixer = SparseTransformer(8, 32, **options).double()
    x, mask = ragged(8, *lengths, total=max(lengths) + 3)
    dropped, mixer = mixer(x, mask), mixer.eval()
    pairs = torch.tensor([[pattern(i, j, 4, 2) for j in range(x.shape[1])] for i in range(x.shape[1])])
    expected = mixer.out(dense_attention(*mixer.qkv_heads(x, mask), pairs & mask[:, None, None]))
    assert_same(mixer(x, mask)[mask], expected[mask], [x, *mixer.parameters()])
    assert not torch.allclose(dropped[mask], expected[mask])


@pytest.mark.parametrize("pattern", ["fixed", "strided"])
def test_two_layers_reach_every_position(pattern):
    torch.manual_seed(0)
    first, second = (SparseTransformer(8, 64, pattern=pattern, block=8, n_summary=1).double() for _ in range(2))
    x, mask = ragged(8, 61)
    second(first(x, mask), mask)[0, 20].sum().backward()
    # the last block is short and has no summary: with the fixed pattern no other block sees it
    reached = x.grad[0].abs().sum(-1) > 0
    assert reached[:56].all()
    assert reached[56:].all() == (pattern == "strided")


def test_default_stride_is_the_root_of_the_length():
    assert SparseTransformer(8, 4096, block=None).block == 64


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="pattern 'diagonal' is not one of fixed, strided"):
        SparseTransformer(8, 16, pattern="diagonal")
    with pytest.raises(ValueError, match=r"n_summary 9 is not in 1\.\.block 4"):
        SparseTransformer(8, 16, block=4, n_summary=9)
