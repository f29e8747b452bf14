"""Local attention against dense attention under a block-diagonal mask."""

import pytest
import torch

from helpers.comparison import assert_same, dense_attention, ragged
from models.local_attention import LocalAttention


@pytest.mark.parametrize(("lengths", "width"), [((12, 7), 4), ((13, 4), 4), ((3, 1), 4), ((9, 5), 50)])
def test_equals_masked_dense_attention(lengths, width):
    torch.manual_seed(0)
    mixer = LocalAttention(8, 16, block=width, n_heads=2, d_qkv=4).double()
    x, mask = ragged(8, *lengths)
    block = torch.arange(x.shape[1]) // width
    allowed = (block[:, None] == block) & mask[:, None, None]
    expected = mixer.out(dense_attention(*mixer.qkv_heads(x, mask), allowed))
    assert_same(mixer(x, mask)[mask], expected[mask], [x, *mixer.parameters()])
