"""The pseudo-inverse against torch's, the mixer against full attention and against the transformers library."""

import pytest
import torch

from models.nystromformer import Nystromformer, iterative_inverse, segment_weights


def test_segments_are_consecutive_and_even_and_cover_the_real_positions():
    mask = torch.arange(12) < torch.tensor([[12], [10], [3]])
    weights, used = segment_weights(mask, 4)
    assert used.tolist() == [[True] * 4, [True] * 4, [True, True, True, False]]
    assert [[int(n) for n in row] for row in (weights > 0).sum(-1)] == [[3, 3, 3, 3], [3, 2, 3, 2], [1, 1, 1, 0]]
    assert (((weights > 0).sum(1) == 1) == mask).all()
    torch.testing.assert_close(weights.sum(-1), used.float())


def test_the_iteration_converges_to_the_pseudo_inverse():
    torch.manual_seed(0)
    a = torch.randn(3, 2, 8, 8, dtype=torch.float64).mul(2).softmax(-1)
    errors = [(iterative_inverse(a, n) - torch.linalg.pinv(a)).abs().max().item() for n in (4, 8, 30)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-8


def test_as_many_landmarks_as_positions_is_full_attention(dense_attention, ragged):
    torch.manual_seed(0)
    mixer = Nystromformer(8, 12, n_landmarks=9, conv_kernel=0, n_iterations=60, n_heads=2, d_qkv=4).double()
    x, mask = ragged(8, 9, 5, total=11)
    q, k, v = mixer.qkv(4 * x).unflatten(-1, (3, 2, 2)).unbind(2)
    expected = mixer.out(dense_attention(q, k, v, mask[:, None, None]))
    torch.testing.assert_close(mixer(4 * x, mask)[mask], expected[mask], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n_heads", [1, 2])
def test_equals_the_transformers_library(n_heads, assert_same, ragged):
    library = pytest.importorskip("transformers.models.nystromformer.modeling_nystromformer")
    configuration = pytest.importorskip("transformers.models.nystromformer.configuration_nystromformer")
    config = configuration.NystromformerConfig(
        hidden_size=8,
        num_attention_heads=n_heads,
        num_landmarks=4,
        segment_means_seq_len=24,
        conv_kernel_size=5,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    theirs = library.NystromformerSelfAttention(config).double()
    # its default start takes one scale for the whole batch
    theirs.init_option = "exact"
    ours = Nystromformer(8, 24, n_landmarks=4, conv_kernel=5, n_heads=n_heads).double()
    with torch.no_grad():
        for name, weight, bias in zip(
            ("query", "key", "value"), ours.qkv.weight.chunk(3), ours.qkv.bias.chunk(3), strict=True
        ):
            getattr(theirs, name).weight.copy_(weight)
            getattr(theirs, name).bias.copy_(bias)
        theirs.conv.weight.copy_(ours.conv.weight)
    # the library's segments are cut over padding too, so only full rows are defined alike
    x, mask = ragged(8, 24, 24)
    assert_same(ours(x, mask), ours.out(theirs(x)[0]), [x, ours.out.weight], mask)


def test_an_even_convolution_is_refused():
    with pytest.raises(ValueError, match="conv_kernel 4 is even"):
        Nystromformer(8, 16, conv_kernel=4)
