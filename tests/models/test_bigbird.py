"""BigBird's pattern, dense attention under it, and the transformers library."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

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
            for j in index[0, h, block, 5:][used[0, h, block, 5:]].tolist():
                seen[h, block, j] = True
    return seen


# of seven blocks the second and the last but one leave one out: the most that a mask over all pairs serves
@pytest.mark.parametrize(("lengths", "total"), [((30, 17), 34), ((9, 4, 1), 13), ((12, 11), 16), ((20, 11), 21)])
def test_blocks_equal_the_masked_dense_computation(lengths, total, dense_attention, assert_same, ragged):
    torch.manual_seed(0)
    mixer = BigBird(8, 40, block=3, n_random=2, n_heads=2, d_qkv=4, dropout=0.5).double().eval()
    x, mask = ragged(8, *lengths, total=total)
    allowed = torch.zeros(len(lengths), 2, total, total, dtype=torch.bool)
    for row, length in enumerate(lengths):
        seen = pattern(mixer, length).repeat_interleave(3, 1).repeat_interleave(3, 2)
        allowed[row, :, :length, :length] = seen[:, :length, :length]
    q, k, v = mixer.qkv(x).unflatten(-1, (3, 2, 2)).unbind(2)
    expected = mixer.out(dense_attention(q, k, v, allowed))
    assert_same(mixer(x, mask), expected, [x, *mixer.parameters()], mask)


def test_random_blocks_are_distinct_and_neither_near_nor_global():
    mixer = BigBird(8, 200, block=10, n_random=3, n_heads=2, seed=1)
    index, used = mixer.seen_blocks(torch.tensor([19, 4]), 20)
    assert used[0, :, 5:15, 5:].all()
    for row, last in enumerate((19, 4)):
        for h in range(2):
            for block in range(last + 1):
                drawn = index[row, h, block, 5:][used[row, h, block, 5:]].tolist()
                assert len(set(drawn)) == len(drawn)
                eligible = [j for j in range(1, last) if abs(j - block) > 1]
                assert len(drawn) == min(3, len(eligible))
                assert set(drawn) <= set(eligible)


def test_the_pattern_follows_the_seed_and_is_saved():
    one, same, other = (BigBird(8, 200, block=10, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.rank, same.rank)
    assert not torch.equal(one.rank, other.rank)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.rank, other.rank)


def test_equals_the_transformers_library(assert_same, ragged):
    library = pytest.importorskip("transformers.models.big_bird.modeling_big_bird")
    configuration = pytest.importorskip("transformers.models.big_bird.configuration_big_bird")
    config = configuration.BigBirdConfig(
        hidden_size=8, num_attention_heads=2, block_size=2, num_random_blocks=2, max_position_embeddings=32
    )
    torch.manual_seed(0)
    theirs = library.BigBirdBlockSparseAttention(config, seed=0).double()
    ours = BigBird(8, 32, block=2, n_random=2, n_heads=2).double()
    with torch.no_grad():
        for name, weight, bias in zip(
            ("query", "key", "value"), ours.qkv.weight.chunk(3), ours.qkv.bias.chunk(3), strict=True
        ):
            getattr(theirs, name).weight.copy_(weight)
            getattr(theirs, name).bias.copy_(bias)
    # the library draws from its own generator: give it our blocks
    index, _ = ours.seen_blocks(torch.tensor([15]), 16)
    drawn = index[0, :, 1:-1, 5:].numpy()
    theirs._bigbird_block_rand_mask = lambda *args, **kwargs: None
    theirs._bigbird_block_rand_mask_with_head = lambda *args, **kwargs: list(drawn)
    x, mask = ragged(8, 32, 32)
    blocked, band, from_mask, to_mask = library.BigBirdModel.create_masks_for_block_sparse_attn(mask.double(), 2)
    y, _ = theirs(x, band, from_mask, to_mask, blocked, blocked)
    assert_same(ours(x, mask), ours.out(y), [x, ours.out.weight], mask)


def test_a_block_of_no_positions_is_refused():
    with pytest.raises(ValueError, match="block 0 is not positive"):
        BigBird(8, 40, block=0)


def test_what_is_dropped_is_dropped_again_for_the_gradient(monkeypatch, ragged):
    """The blocks are attended to a second time in the backward pass."""
    torch.manual_seed(0)
    mixer = BigBird(8, 40, block=2, n_random=1, n_heads=2, dropout=0.5).double()
    x, mask = ragged(8, 30, 17)
    gradients = []
    for again in (checkpoint, lambda function, *args, **_: function(*args)):
        monkeypatch.setattr("models.bigbird.checkpoint", again)
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad(mixer(x, mask)[mask].square().sum(), x)[0])
    torch.testing.assert_close(*gradients)
