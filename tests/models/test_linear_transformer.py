"""Linear attention against a loop over pairs of positions."""

import math

import torch

from helpers.comparison import assert_same, by_row, ragged
from models.linear_transformer import LinearAttention, feature_map


def test_feature_map_is_elu_plus_one():
    for value in (-3.0, -0.1, 0.0, 2.5):
        expected = value + 1 if value > 0 else math.exp(value)
        assert math.isclose(feature_map(torch.tensor(value, dtype=torch.float64)).item(), expected, rel_tol=1e-12)


def test_equals_a_loop_over_pairs():
    torch.manual_seed(0)
    mixer = LinearAttention(6, 7, n_heads=2, d_qkv=4).double()

    def loop(row):
        """Equation 4 for every pair."""
        q, k, v = mixer.qkv(row).unflatten(-1, (3, 2, 2)).unbind(1)  # each (L, H, K)
        y = []
        for i in range(len(row)):
            for h in range(2):
                weights = torch.stack([feature_map(q[i, h]) @ feature_map(k[j, h]) for j in range(len(row))])
                y.append(weights @ v[:, h] / weights.sum())
        return mixer.out(torch.stack(y).view(len(row), 4))

    x, mask = ragged(6, 7, 4)
    assert_same(mixer(x, mask)[mask], by_row(loop, x, mask), [x, *mixer.parameters()])


def test_vanishing_features_give_zero_and_not_nan():
    mixer = LinearAttention(4, 3, n_heads=1)
    with torch.no_grad():
        mixer.qkv.weight.zero_()
        mixer.qkv.bias.fill_(-1e4)
    y = mixer(torch.zeros(1, 3, 4), torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(y, mixer.out.bias.expand_as(y))
