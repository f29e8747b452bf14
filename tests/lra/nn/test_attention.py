"""Blocks of positions and softmax attention; projections and heads are tested with the models that use them."""

import torch

from helpers.comparison import ragged
from lra.nn.attention import MultiHeadAttention, with_neighbours


def test_neighbours_beyond_the_ends_are_zero():
    blocks = torch.tensor([[[1, 2], [3, 4], [5, 6]]])
    assert with_neighbours(blocks).tolist() == [[[0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [3, 4, 5, 6, 0, 0]]]


def test_block_without_real_keys_is_finite():
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2, None, 0.0).double()
    x, mask = ragged(8, 7, 3)
    q, k, v, real = layer.qkv_blocks(x, mask, 4)
    y = layer.attend_blocks(q, k, v, real[:, :, None])
    assert real.tolist() == [[[True] * 4, [True] * 3 + [False]], [[True] * 3 + [False], [False] * 4]]
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    # the second block of the second row attends to its own padding
    torch.testing.assert_close(y[1, 1], v[1, 1].mean(0).expand_as(y[1, 1]))


def test_nan_in_the_padding_is_cleared():
    layer = MultiHeadAttention(8, 2, 4)
    x, mask = ragged(8, 7, 3)
    q, _, _ = layer.qkv_heads(x.float().masked_fill(~mask[..., None], torch.nan), mask)
    assert q.shape == (2, 7, 2, 2)
    assert q.isfinite().all()
