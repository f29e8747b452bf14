"""Linear attention against a loop over pairs of positions."""

import math

import torch

from models.linear_transformer import LinearAttention, feature_map


def loop(q, k, v, mask):
    """Equation 4 for every pair; q, k, v (B, L, H, K)."""
    rows = []
    for b in range(q.shape[0]):
        for i in range(q.shape[1]):
            for h in range(q.shape[2]):
                pairs = [
                    (feature_map(q[b, i, h]) @ feature_map(k[b, j, h]), v[b, j, h]) for j in range(int(mask[b].sum()))
                ]
                rows.append(sum(weight * value for weight, value in pairs) / sum(weight for weight, _ in pairs))
    return torch.stack(rows).view_as(v)


def test_feature_map_is_elu_plus_one():
    for value in (-3.0, -0.1, 0.0, 2.5):
        expected = value + 1 if value > 0 else math.exp(value)
        assert math.isclose(feature_map(torch.tensor(value, dtype=torch.float64)).item(), expected, rel_tol=1e-12)


def test_values_and_gradients_equal_the_loop_over_pairs():
    torch.manual_seed(0)
    mixer = LinearAttention(6, 7, n_heads=2, d_qkv=4).double()
    x = torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    q, k, v = mixer.qkv(x).unflatten(-1, (3, 2, 2)).unbind(2)
    expected = mixer.out(loop(q, k, v, mask).flatten(-2))
    y = mixer(x, mask)
    torch.testing.assert_close(y[mask], expected[mask])
    weight = torch.randn_like(y) * mask[..., None]
    ours = torch.autograd.grad((y * weight).sum(), [x, *mixer.parameters()])
    theirs = torch.autograd.grad((expected * weight).sum(), [x, *mixer.parameters()])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_features_that_vanish_give_zero_and_not_nan():
    mixer = LinearAttention(4, 3, n_heads=1)
    with torch.no_grad():
        mixer.qkv.weight.zero_()
        mixer.qkv.bias.fill_(-1e4)
    y = mixer(torch.zeros(1, 3, 4), torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(y, mixer.out.bias.expand_as(y))
