import math

import pytest
import torch
from transformers import RoFormerConfig
from transformers.models.roformer.modeling_roformer import RoFormerSelfAttention, RoFormerSinusoidalPositionalEmbedding

from models.rope_transformer import RotaryAttention, rotate


def inputs(*shape: int, lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    return x, torch.arange(shape[1]) < torch.tensor(lengths)[:, None]


def test_rotation_is_multiplication_by_a_unit_complex_number():
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    expected = torch.empty_like(x)
    for m in range(7):
        for i in range(4):
            turn = torch.polar(torch.tensor(1.0).double(), torch.tensor(m * 10000.0 ** (-2 * i / 8)).double())
            z = torch.complex(x[:, :, m, 2 * i], x[:, :, m, 2 * i + 1]) * turn
            expected[:, :, m, 2 * i], expected[:, :, m, 2 * i + 1] = z.real, z.imag
    torch.testing.assert_close(rotate(x), expected)


def test_scores_depend_on_the_difference_of_positions():
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64).expand(2, 1, 1, 20, 8)
    scores = (rotate(q) @ rotate(k).transpose(-1, -2))[0, 0]
    torch.testing.assert_close(scores[:-3, :-3], scores[3:, 3:])


def test_equals_roformer_attention():
    torch.manual_seed(0)
    config = RoFormerConfig(hidden_size=16, num_attention_heads=2, attention_probs_dropout_prob=0.0, rotary_value=False)
    theirs, ours = RoFormerSelfAttention(config).double(), RotaryAttention(16, 32, n_heads=2).double()
    with torch.no_grad():
        ours.qkv.weight.copy_(torch.cat([theirs.query.weight, theirs.key.weight, theirs.value.weight]))
        ours.qkv.bias.copy_(torch.cat([theirs.query.bias, theirs.key.bias, theirs.value.bias]))
        ours.out.weight.copy_(torch.eye(16))
        ours.out.bias.zero_()
    table = RoFormerSinusoidalPositionalEmbedding(32, 8)
    # made in float64: theirs rounds the angles
    table.weight = torch.nn.Parameter(table.create_weight().double(), requires_grad=False)
    x, mask = inputs(3, 11, 16, lengths=(11, 6, 1))
    unmasked = torch.zeros(3, 1, 1, 11, dtype=torch.float64).masked_fill(~mask[:, None, None], -1e300)
    expected = theirs(x, unmasked, table((3, 11))[None, None])[0][mask]
    actual = ours(x, mask)[mask]
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
    weight = torch.randn_like(actual)
    grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (actual, expected)]
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("length", [4, 9, 12, 31])
def test_windows_equal_masked_full_attention(length):
    torch.manual_seed(0)
    local, full = (RotaryAttention(8, 64, n_heads=2, window=window).double() for window in (4, None))
    full.load_state_dict(local.state_dict())
    x, mask = inputs(3, length, 8, lengths=(length, max(1, length - 5), 1))
    q, k, v = (part.transpose(1, 2) for part in full.qkv(x).unflatten(-1, (3, 2, 4)).unbind(2))
    block = torch.arange(length) // 4
    seen = ((block[:, None] - block).abs() <= 1) & mask[:, None, None, :]
    scores = (rotate(q) @ rotate(k).transpose(-1, -2) / math.sqrt(4)).masked_fill(~seen, -1e300)
    expected = full.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))[mask]
    actual = local(x, mask)[mask]
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(actual)
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), x)[0] for y in (actual, expected)))


def test_a_width_that_cannot_be_paired_is_refused():
    with pytest.raises(ValueError, match="n_heads"):
        RotaryAttention(12, 8, n_heads=4)
