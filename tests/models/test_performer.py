"""Performer against its own kernel computed densely, and its features against the softmax they estimate."""

import itertools

import pytest
import torch

from helpers.comparison import assert_same, dense_attention, ragged
from models.performer import FLOOR, Performer, orthogonal_gaussian, relu_features, softmax_features


@pytest.mark.parametrize(("kernel", "n_features"), [("softmax", 10), ("relu", 10), ("relu", None)])
@pytest.mark.parametrize("max_features", [2**20, 1])
def test_equals_the_dense_kernel(kernel, n_features, max_features, monkeypatch):
    # all rows at once, or one after the other
    monkeypatch.setattr("models.performer.MAX_FEATURES", {"cpu": max_features})
    torch.manual_seed(0)
    mixer = Performer(8, 16, kernel=kernel, n_features=n_features, n_heads=2, d_qkv=6).double()
    x, mask = ragged(8, 9, 5, 1)
    q, k, v = mixer.qkv(x).unflatten(-1, (3, 2, 3)).unbind(2)
    if kernel == "softmax":
        q, k = softmax_features(q, mixer.features), softmax_features(k, mixer.features, real=mask)
    else:
        q, k = relu_features(q, mixer.features), relu_features(k, mixer.features)
    weights = torch.einsum("bihm,bjhm->bhij", q + FLOOR[kernel], k + FLOOR[kernel]) * mask[:, None, None]
    weights = weights / weights.sum(-1, keepdim=True)
    expected = mixer.out(torch.einsum("bhij,bjhk->bihk", weights, v).flatten(-2))
    assert_same(mixer(x, mask)[mask], expected[mask], [x, *mixer.parameters()])


def test_features_are_orthogonal_and_gaussian():
    torch.manual_seed(0)
    w = orthogonal_gaussian(20, 8).double()
    for group in (w[:8], w[8:16], w[16:]):
        gram = group @ group.T
        assert (gram - gram.diagonal().diag()).abs().max() < 1e-5
    many = torch.cat([orthogonal_gaussian(8, 8) for _ in range(1000)])
    torch.testing.assert_close(many.mean(0), torch.zeros(8), rtol=0, atol=0.06)
    torch.testing.assert_close(many.T @ many / len(many), torch.eye(8), rtol=0, atol=0.06)


def estimates(q, k, n_features, *, orthogonal, repeats):
    """Repeated estimates of exp(q . k / sqrt(K)), without the stabilising constants."""
    width = q.shape[-1]
    q, k = q / width**0.25, k / width**0.25
    values = []
    for _ in range(repeats):
        w = (orthogonal_gaussian(n_features, width) if orthogonal else torch.randn(n_features, width)).double()
        phi_q, phi_k = (torch.exp(t @ w.T - t.square().sum() / 2) for t in (q, k))
        values.append(phi_q @ phi_k / n_features)
    return torch.stack(values)


def test_orthogonality_lowers_the_variance_without_bias():
    torch.manual_seed(0)
    # short vectors: otherwise the estimate has heavy tails, and no sample is large enough
    q, k = 0.5 * torch.randn(2, 8, dtype=torch.float64)
    exact = (q @ k / 8**0.5).exp()
    plain, orthogonal = (estimates(q, k, 8, orthogonal=orthogonal, repeats=800) for orthogonal in (False, True))
    for sample in (plain, orthogonal):
        assert abs(sample.mean() - exact) < 4 * sample.std() / len(sample) ** 0.5
    assert orthogonal.var() < 0.8 * plain.var()


def test_more_features_approach_softmax_attention():
    x, mask = ragged(16, 40, 23)
    errors = []
    for n_features in (16, 256, 4096):
        sample = []
        for seed in range(5):
            torch.manual_seed(seed)
            mixer = Performer(16, 40, kernel="softmax", n_features=n_features, n_heads=2).double()
            exact = mixer.out(dense_attention(*mixer.qkv_heads(x, mask), mask[:, None, None]))[mask]
            sample.append(((mixer(x, mask)[mask] - exact).norm() / exact.norm()).item())
        errors.append(sorted(sample)[2])
    # the error of a mean of M features falls as 1 / sqrt(M), by 4 at each step; that of the ratio a little less
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.03


def test_features_are_redrawn_on_schedule_in_training():
    torch.manual_seed(0)
    mixer = Performer(8, 16, n_features=6, redraw_steps=2)
    x, mask = torch.randn(1, 9, 8), torch.ones(1, 9, dtype=torch.bool)
    seen = []
    for _ in range(5):
        mixer(x, mask)
        seen.append(mixer.features.clone())
    assert [torch.equal(a, b) for a, b in itertools.pairwise(seen)] == [True, False, True, False]
    mixer.eval()
    for _ in range(4):
        mixer(x, mask)
    assert torch.equal(mixer.features, seen[-1])
    other = Performer(8, 16, n_features=6, redraw_steps=2)
    other.load_state_dict(mixer.state_dict())
    assert other.step == mixer.step == 5


def test_infinite_keys_in_the_padding_change_nothing():
    torch.manual_seed(0)
    mixer = Performer(8, 16, kernel="softmax", n_features=10).double()
    x, mask = ragged(8, 9, 5)
    infinite = x.detach().masked_fill(~mask[..., None], torch.inf)
    torch.testing.assert_close(mixer(infinite, mask)[mask], mixer(x, mask)[mask], rtol=0, atol=0)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="kernel 'cosine' is not one of softmax, relu"):
        Performer(8, 16, kernel="cosine")
    with pytest.raises(ValueError, match="kernel softmax needs n_features"):
        Performer(8, 16, kernel="softmax", n_features=None)
