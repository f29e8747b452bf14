"""Full attention against torch's own module and against the formula."""

import pytest
import torch
from torch import nn

from helpers.comparison import assert_same, ragged
from models.transformer import Attention


def test_equals_torch_multihead_attention():
    torch.manual_seed(0)
    ours = Attention(12, 9, n_heads=3).double()
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    theirs.in_proj_weight, theirs.in_proj_bias, theirs.out_proj = ours.qkv.weight, ours.qkv.bias, ours.out
    x, mask = ragged(12, 9, 6, 1)
    expected, _ = theirs(x, x, x, key_padding_mask=~mask)
    assert_same(ours(x, mask)[mask], expected[mask], [x, *ours.parameters()])


def test_narrow_queries_equal_the_formula():
    torch.manual_seed(0)
    mixer = Attention(12, 9, n_heads=2, d_qkv=6).double()
    x, mask = ragged(12, 9, 6, 1)
    q, k, v = mixer.qkv(x).unflatten(-1, (3, 2, 3)).unbind(2)
    scores = torch.einsum("bihk,bjhk->bhij", q, k) / 3**0.5
    weights = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
    expected = mixer.out(torch.einsum("bhij,bjhk->bihk", weights, v).flatten(-2))
    torch.testing.assert_close(mixer(x, mask)[mask], expected[mask])


def test_nan_in_the_padding_changes_nothing():
    mixer = Attention(12, 9, n_heads=2).double()
    x, mask = ragged(12, 9, 6, 1)
    with_nan = x.masked_fill(~mask[..., None], torch.nan)
    torch.testing.assert_close(mixer(with_nan, mask)[mask], mixer(x, mask)[mask], rtol=0, atol=0)


def test_dropout_acts_only_in_training():
    torch.manual_seed(0)
    mixer = Attention(12, 9, dropout=0.5).double()
    x, mask = ragged(12, 9, 6, 1)
    assert not torch.equal(mixer(x, mask), mixer(x, mask))
    mixer.eval()
    assert torch.equal(mixer(x, mask), mixer(x, mask))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="d_qkv 10 is not a multiple of n_heads 4"):
        Attention(10, 8, n_heads=4)
