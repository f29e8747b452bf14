"""The pseudo-inverse against torch's, the mixer against full attention and against the transformers library."""

import pytest
import torch
from transformers.models.nystromformer.configuration_nystromformer import NystromformerConfig
from transformers.models.nystromformer.modeling_nystromformer import NystromformerSelfAttention

from helpers.comparison import assert_same, copy_projections, dense_attention, ragged
from models.nystromformer import Nystromformer, iterative_inverse, segment_weights


def test_segments_are_even_and_cover_the_real_positions():
    mask = torch.arange(12) < torch.tensor([[12], [10], [3]])
    weights, used = segment_weights(mask, 4)
    assert used.tolist() == [[True] * 4, [True] * 4, [True, True, True, False]]
    assert (weights > 0).sum(-1).tolist() == [[3, 3, 3, 3], [3, 2, 3, 2], [1, 1, 1, 0]]
    assert (((weights > 0).sum(1) == 1) == mask).all()
    torch.testing.assert_close(weights.sum(-1), used.float())


def test_iteration_converges_to_the_pseudo_inverse():
    torch.manual_seed(0)
    a = torch.randn(3, 2, 8, 8, dtype=torch.float64).mul(2).softmax(-1)
    errors = [(iterative_inverse(a, n) - torch.linalg.pinv(a)).abs().max().item() for n in (4, 8, 30)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-8


def test_landmark_per_position_is_full_attention():
    torch.manual_seed(0)
    mixer = Nystromformer(8, 12, n_landmarks=9, conv_kernel=0, n_iterations=60, n_heads=2, d_qkv=4).double()
    x, mask = ragged(8, 9, 5, total=11)
    expected = mixer.out(dense_attention(*mixer.qkv_heads(4 * x, mask), mask[:, None, None]))
    torch.testing.assert_close(mixer(4 * x, mask)[mask], expected[mask], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n_heads", [1, 2])
def test_equals_transformers_library(n_heads):
    sizes = {"hidden_size": 8, "num_attention_heads": n_heads, "num_landmarks": 4, "segment_means_seq_len": 24}
    torch.manual_seed(0)
    config = NystromformerConfig(**sizes, conv_kernel_size=5, attention_probs_dropout_prob=0.0)
    theirs = NystromformerSelfAttention(config).double()
    # the library's default initial inverse uses one scale for the whole batch
    theirs.init_option = "exact"
    ours = Nystromformer(8, 24, n_landmarks=4, conv_kernel=5, n_heads=n_heads).double()
    copy_projections(theirs, ours.qkv)
    theirs.conv.load_state_dict(ours.conv.state_dict())
    # only for full rows, because the library's segments include padding
    x, mask = ragged(8, 24, 24)
    assert_same(ours(x, mask), ours.out(theirs(x)[0]), [x, ours.out.weight])


def test_even_convolution_is_refused():
    with pytest.raises(ValueError, match="conv_kernel 4 is even"):
        Nystromformer(8, 16, conv_kernel=4)
