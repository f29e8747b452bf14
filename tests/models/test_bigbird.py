"""BigBird against dense attention under its mask, and against the transformers library."""

import pytest
import torch
from transformers.models.big_bird.configuration_big_bird import BigBirdConfig
from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention, BigBirdModel

from helpers.comparison import assert_same, copy_projections, dense_attention, ragged
from models.bigbird import BigBird


def pattern(mixer, length):
    """(H, N, N) bool, from the definition: global ends, window of three, the drawn blocks."""
    n_blocks = -(-length // mixer.block)
    index, used = mixer.seen_blocks(torch.tensor([n_blocks - 1]), n_blocks)
    i = torch.arange(n_blocks)
    near = (i[:, None] - i).abs() <= 1
    ends = (i == 0) | (i == n_blocks - 1)
    seen = (near | ends | ends[:, None]).repeat(mixer.n_heads, 1, 1)
    for h in range(mixer.n_heads):
        for block in range(n_blocks):
            seen[h, block, index[0, h, block, 5:][used[0, h, block, 5:]]] = True
    return seen


# seven blocks: the most for which the model uses a mask over all pairs
@pytest.mark.parametrize(("lengths", "total"), [((30, 17), 34), ((9, 4, 1), 13), ((12, 11), 16), ((20, 11), 21)])
def test_equals_masked_dense_attention(lengths, total):
    torch.manual_seed(0)
    mixer = BigBird(8, 40, block=3, n_random=2, n_heads=2, d_qkv=4, dropout=0.5).double().eval()
    x, mask = ragged(8, *lengths, total=total)
    allowed = torch.zeros(len(lengths), 2, total, total, dtype=torch.bool)
    for row, length in enumerate(lengths):
        seen = pattern(mixer, length).repeat_interleave(3, 1).repeat_interleave(3, 2)
        allowed[row, :, :length, :length] = seen[:, :length, :length]
    expected = mixer.out(dense_attention(*mixer.qkv_heads(x, mask), allowed))
    assert_same(mixer(x, mask)[mask], expected[mask], [x, *mixer.parameters()])


def test_random_blocks_are_distinct_and_eligible():
    mixer = BigBird(8, 200, block=10, n_random=3, n_heads=2, seed=1)
    index, used = mixer.seen_blocks(torch.tensor([19, 4]), 20)
    assert used[0, :, 5:15, 5:].all()
    for row, last in enumerate((19, 4)):
        for h in range(2):
            for block in range(last + 1):
                drawn = index[row, h, block, 5:][used[row, h, block, 5:]].tolist()
                eligible = [j for j in range(1, last) if abs(j - block) > 1]
                assert len(set(drawn)) == len(drawn) == min(3, len(eligible))
                assert set(drawn) <= set(eligible)


def test_pattern_follows_the_seed_and_is_saved():
    one, same, other = (BigBird(8, 200, block=10, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.rank, same.rank)
    assert not torch.equal(one.rank, other.rank)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.rank, other.rank)


def test_equals_transformers_library():
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "block_size": 2, "num_random_blocks": 2}
    torch.manual_seed(0)
    theirs = BigBirdBlockSparseAttention(BigBirdConfig(**sizes, max_position_embeddings=32), seed=0).double()
    ours = BigBird(8, 32, block=2, n_random=2, n_heads=2).double()
    copy_projections(theirs, ours.qkv)
    # the library draws from its own generator: replace its blocks by ours
    index, _ = ours.seen_blocks(torch.tensor([15]), 16)
    drawn = index[0, :, 1:-1, 5:].numpy()
    theirs._bigbird_block_rand_mask = lambda *args, **kwargs: None
    theirs._bigbird_block_rand_mask_with_head = lambda *args, **kwargs: list(drawn)
    x, mask = ragged(8, 32, 32)
    blocked, band, from_mask, to_mask = BigBirdModel.create_masks_for_block_sparse_attn(mask.double(), 2)
    y, _ = theirs(x, band, from_mask, to_mask, blocked, blocked)
    assert_same(ours(x, mask), ours.out(y), [x, ours.out.weight])
