"""The classifier around a mixer: norms, dropout, padding, pooling, heads."""

import pytest
import torch
from torch import nn

from lra.nn.batch_norm import BatchNorm, Normalise
from lra.nn.blocks import Backbone, Dropout, Embedding, sinusoids
from lra.nn.classifier import Classifier
from lra.nn.heads import Head, pool_sequence
from lra.task import TaskSpec

TOKENS = TaskSpec("t", 12, 4, 7, ragged=True)


class Mixer(nn.Module):
    """Each position plus the mean over real positions."""

    def __init__(self, d_model, max_len):
        super().__init__()
        self.linear = nn.Linear(d_model, d_model)

    def forward(self, x, mask):
        real = mask[..., None].to(x.dtype)
        return self.linear(x) + (x * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)


def ragged(lengths, longest):
    """Mask (B, longest) of sequences of these lengths."""
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


def test_batch_norm_ignores_padding():
    torch.manual_seed(0)
    ours, theirs = BatchNorm(5, ragged=True), nn.BatchNorm1d(5)
    x, mask = 3 + torch.randn(4, 9, 5), ragged([9, 4, 1, 6], 9)
    x[..., 0] = 2  # no variance
    x[~mask] = 1e6
    torch.testing.assert_close(ours(x, mask)[mask], theirs(x[mask]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, mask)[mask], theirs(x[mask]))


def test_batch_norm_of_bfloat16_sums_in_float32():
    torch.manual_seed(0)
    norm, exact = BatchNorm(5, ragged=True), BatchNorm(5, ragged=True)
    x, mask = (3 + torch.randn(40, 9, 5)).bfloat16(), ragged([9, 4, 1, 6] * 10, 9)
    y = norm(x, mask)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), exact(x.float(), mask), rtol=0.02, atol=0.02)
    torch.testing.assert_close(norm.running_mean, exact.running_mean)
    torch.testing.assert_close(norm.running_var, exact.running_var, rtol=0.01, atol=0)


def test_batch_norm_gives_padding_no_gradient():
    x, mask = torch.randn(3, 6, 2, requires_grad=True), ragged([6, 2, 3], 6)
    (BatchNorm(2, ragged=True)(x, mask) * torch.randn(3, 6, 2))[mask].sum().backward()
    assert (x.grad[~mask] == 0).all()
    assert (x.grad[mask] != 0).any()


def test_batch_norm_gradients_equal_finite_differences():
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((7, 3), (3,), (3,)))
    real = torch.tensor([True, True, False, True, True, False, True])
    torch.autograd.gradcheck(lambda *p: Normalise.apply(p[0], real, *p[1:], 1e-5)[0], (x, weight, bias))


def test_tied_dropout_drops_whole_features():
    torch.manual_seed(0)
    y = Dropout(0.25, tied=True)(torch.ones(200, 7, 50))
    assert y.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (y == y[:, :1]).all()
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    free = Dropout(0.25)(torch.ones(200, 7, 50))
    assert not (free == free[:, :1]).all()
    assert Dropout(0.25).eval()(y) is y
    for p in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"dropout: {p} is not in \[0, 1\)"):
            Dropout(p)


def test_sinusoids_match_the_paper():
    code = sinusoids(50, 6)
    assert code.shape == (50, 6)
    assert code[3, 0].item() == pytest.approx(torch.tensor(3.0).sin().item())
    assert code[3, 4].item() == pytest.approx((torch.tensor(3.0) / 10000 ** (1 / 3)).cos().item(), abs=1e-6)


def test_class_token_is_first_and_real():
    h, mask = Embedding(TOKENS, 8, positions="learned", class_token=True)(
        torch.ones(2, 5, dtype=torch.int64), ragged([5, 3], 5)
    )
    assert h.shape == (2, 6, 8)
    assert mask.tolist() == ragged([6, 4], 6).tolist()


def test_too_long_input_is_refused():
    model = Classifier(TOKENS, d_model=8, n_layers=1, mixer=Mixer)
    with pytest.raises(ValueError, match="13 positions"):
        model(torch.ones(1, 13, dtype=torch.int64), torch.ones(1, 13, dtype=torch.bool))


@pytest.mark.parametrize("pool", ["mean", "last", "first", "cls"])
@pytest.mark.parametrize("norm", ["layer", "batch", "rms"])
@pytest.mark.parametrize("prenorm", [True, False])
def test_padding_never_changes_a_score(pool, norm, prenorm):
    torch.manual_seed(0)
    model = Classifier(
        TOKENS, d_model=8, n_layers=2, mixer=Mixer, norm=norm, prenorm=prenorm, d_ff=16, pool=pool
    ).eval()
    x, mask = torch.randint(1, 7, (3, 8)), ragged([8, 5, 1], 8)
    longer = torch.cat([x.masked_fill(~mask, 0), torch.full((3, 4), 6)], 1)
    a = model(longer, nn.functional.pad(mask, (0, 4)))
    torch.testing.assert_close(a, model(x, mask))


@pytest.mark.parametrize("d_ff", [16, 0])
@pytest.mark.parametrize("prenorm", [True, False])
def test_block_equals_residual_formula(prenorm, d_ff):
    torch.manual_seed(0)
    net = Backbone(mixer=Mixer, d_model=8, n_layers=2, max_len=12, prenorm=prenorm, d_ff=d_ff).double()
    x, mask = torch.randn(2, 9, 8, dtype=torch.float64), ragged([9, 4], 9)
    norm = lambda y: nn.functional.layer_norm(y, (8,))  # noqa: E731
    expected, kinds = x, ["Mixer", "FeedForward"] if d_ff else ["Mixer"]
    assert [type(block.layer).__name__ for block in net.blocks] == 2 * kinds
    for block in net.blocks:
        y = norm(expected) if prenorm else expected
        y = expected + (block.layer(y, mask) if isinstance(block.layer, Mixer) else block.layer(y))
        expected = y if prenorm else norm(y)
    torch.testing.assert_close(net(x, mask), norm(expected) if prenorm else expected)


def test_tie_dropout_applies_everywhere():
    for tied in (True, False):
        net = Classifier(
            TOKENS, d_model=8, n_layers=1, mixer=Mixer, d_ff=8, dropout=0.1, input_dropout=0.1, tie_dropout=tied
        )
        dropouts = [(module.p, module.tied) for module in net.modules() if isinstance(module, Dropout)]
        assert dropouts == [(0.1, tied)] * 4


def test_pooling_reads_real_positions():
    x, mask = torch.arange(24.0).view(2, 4, 3), ragged([4, 2], 4)
    assert pool_sequence(x, mask, "last").tolist() == [x[0, 3].tolist(), x[1, 1].tolist()]
    assert pool_sequence(x, mask, "mean")[1].tolist() == x[1, :2].mean(0).tolist()
    assert pool_sequence(x, mask, "first").tolist() == x[:, 0].tolist()


def test_pair_features_depend_on_order():
    spec = TaskSpec("pairs", 12, 2, 7, paired=True, ragged=True)
    torch.manual_seed(0)
    head = Head(spec, 3)
    x, mask = torch.randn(4, 5, 3), torch.ones(4, 5, dtype=torch.bool)
    scores = head(x, mask)
    assert scores.shape == (2, 2)
    a, b = x[0].mean(0), x[2].mean(0)
    by_hand = head.classifier(torch.cat([a, b, a * b, a - b]))
    torch.testing.assert_close(scores[0], by_hand)
    swapped = head(x[[2, 3, 0, 1]], mask)
    assert not torch.allclose(scores, swapped)


@pytest.mark.parametrize(
    ("key", "value"), [("norm", "bach"), ("pool", "avg"), ("positions", "sine"), ("activation", "tanh")]
)
def test_unknown_name_lists_the_known_ones(key, value):
    with pytest.raises(ValueError, match=rf"{key}: '{value}' is not one of"):
        Classifier(TOKENS, d_model=8, n_layers=1, mixer=Mixer, d_ff=8, **{key: value})


def test_mixer_or_encoder_is_needed():
    with pytest.raises(ValueError, match="exactly one of mixer and encoder"):
        Classifier(TOKENS, d_model=8, n_layers=1)
