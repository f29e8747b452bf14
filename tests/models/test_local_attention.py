"""Local attention against dense attention under a block-diagonal mask."""

import pytest
import torch

from models.local_attention import LocalAttention


@pytest.mark.parametrize("lengths", [(12, 7), (13, 4), (3, 1)])
def test_blocks_equal_the_masked_dense_computation(lengths, dense_attention, assert_same, ragged):
    torch.manual_seed(0)
    mixer = LocalAttention(8, 16, block=4, n_heads=2, d_qkv=4).double()
    x, mask = ragged(8, *lengths)
    q, k, v = mixer.qkv(x).unflatten(-1, (3, 2, 2)).unbind(2)
    block = torch.arange(x.shape[1]) // 4
    allowed = (block[:, None] == block) & mask[:, None, None]
    expected = mixer.out(dense_attention(q, k, v, allowed))
    assert_same(mixer(x, mask), expected, [x, *mixer.parameters()], mask)


def test_a_block_longer_than_the_input_is_full_attention(dense_attention, ragged):
    torch.manual_seed(0)
    mixer = LocalAttention(8, 16, n_heads=2).double()
    x, mask = ragged(8, 9, 5)
    q, k, v = mixer.qkv(x).unflatten(-1, (3, 2, 4)).unbind(2)
    expected = mixer.out(dense_attention(q, k, v, mask[:, None, None]))
    torch.testing.assert_close(mixer(x, mask)[mask], expected[mask])


def test_a_block_of_no_positions_is_refused():
    with pytest.raises(ValueError, match="block 0 is not positive"):
        LocalAttention(8, 16, block=0)
