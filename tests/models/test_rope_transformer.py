"""Rotary attention against the transformers library and against dense attention under its window."""

import pytest
import torch
from transformers import RoFormerConfig
from transformers.models.roformer.modeling_roformer import RoFormerSelfAttention, RoFormerSinusoidalPositionalEmbedding

from helpers.comparison import assert_same, copy_projections, dense_attention, ragged
from models.rope_transformer import RotaryAttention, rotate


def test_rotation_multiplies_by_a_unit_complex_number():
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    angle = torch.arange(7)[:, None] * 10000.0 ** (-2 * torch.arange(4, dtype=torch.float64) / 8)
    expected = torch.view_as_complex(x.unflatten(-1, (4, 2))) * torch.polar(torch.ones_like(angle), angle)
    torch.testing.assert_close(rotate(x), torch.view_as_real(expected).flatten(-2))


def test_scores_depend_on_the_difference_of_positions():
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64).expand(2, 1, 1, 20, 8)
    scores = (rotate(q) @ rotate(k).transpose(-1, -2))[0, 0]
    torch.testing.assert_close(scores[:-3, :-3], scores[3:, 3:])


def test_equals_transformers_library():
    torch.manual_seed(0)
    config = RoFormerConfig(hidden_size=16, num_attention_heads=2, attention_probs_dropout_prob=0.0, rotary_value=False)
    theirs, ours = RoFormerSelfAttention(config).double(), RotaryAttention(16, 32, n_heads=2).double()
    copy_projections(theirs, ours.qkv)
    table = RoFormerSinusoidalPositionalEmbedding(32, 8)
    # in float64: the library rounds the angles
    table.weight = torch.nn.Parameter(table.create_weight().double(), requires_grad=False)
    x, mask = ragged(16, 11, 6, 1)
    added = torch.zeros(3, 1, 1, 11, dtype=torch.float64).masked_fill(~mask[:, None, None], -1e300)
    expected = ours.out(theirs(x, added, table((3, 11))[None, None])[0])
    assert_same(ours(x, mask)[mask], expected[mask], [x], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("length", [4, 9, 12, 31])
def test_windows_equal_masked_dense_attention(length):
    torch.manual_seed(0)
    local = RotaryAttention(8, 64, n_heads=2, window=4).double()
    x, mask = ragged(8, length, max(1, length - 5), 1)
    q, k, v = local.qkv_heads(x, mask)
    q, k = (rotate(t.transpose(1, 2)).transpose(1, 2) for t in (q, k))
    block = torch.arange(length) // 4
    expected = dense_attention(q, k, v, ((block[:, None] - block).abs() <= 1) & mask[:, None, None])
    assert_same(local(x, mask)[mask], local.out(expected)[mask], [x])


def test_odd_head_width_is_refused():
    with pytest.raises(ValueError, match="n_heads"):
        RotaryAttention(12, 8, n_heads=4)
