"""Balancing, and the block-wise attention against loops over mixed blocks."""

import pytest
import torch

from helpers.comparison import assert_same, by_row, ragged
from models.sinkhorn import SinkhornAttention, sinkhorn


def test_balancing_makes_rows_and_columns_sum_to_one():
    torch.manual_seed(0)
    scores = 2 * torch.randn(2, 3, 5, 5, dtype=torch.float64)
    real = torch.arange(5) < torch.tensor([[5], [3]])
    errors = []
    for n in (1, 3, 300):
        weights = sinkhorn(scores, real, n)
        torch.testing.assert_close(weights.sum(3), real[:, None].expand(-1, 3, -1).double())
        errors.append((weights.sum(2) - real[:, None].double()).abs().max().item())
        assert (weights[1, :, 3:] == 0).all()
        assert (weights[1, :, :, 3:] == 0).all()
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-8


def test_balancing_ignores_padding():
    scores = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    real = torch.arange(6)[None] < 4
    inner = sinkhorn(scores[..., :4, :4], real[:, :4], 2)
    torch.testing.assert_close(sinkhorn(scores, real, 2)[..., :4, :4], inner)


@pytest.mark.parametrize("lengths", [(16, 11), (13, 4, 2), (3, 1)])
def test_equals_loops_over_own_and_mixed_blocks(lengths):
    torch.manual_seed(0)
    mixer = SinkhornAttention(8, 24, block=4, n_iterations=2, temperature=0.5, n_heads=2, d_qkv=6).double()

    def loop(row):
        length, n_blocks = len(row), -(-len(row) // 4)
        q, k, v = mixer.qkv(row).unflatten(-1, (3, 2, 3)).unbind(1)  # (length, H, K)
        own = [slice(4 * i, min(4 * i + 4, length)) for i in range(n_blocks)]
        heads = []
        for h in range(2):
            scores = torch.stack([mixer.sort(k[s, h].mean(0))[:n_blocks] for s in own], dim=1) / 0.5
            weights = sinkhorn(scores[None, None], torch.ones(1, n_blocks, dtype=torch.bool), 2)[0, 0]
            out = []
            for i in range(n_blocks):
                # place w of the mixed block takes from every block that has a w-th position
                mixed_k, mixed_v = [], []
                for w in range(min(4, length)):
                    sources = [j for j in range(n_blocks) if 4 * j + w < length]
                    mixed_k.append(sum(weights[i, j] * k[4 * j + w, h] for j in sources))
                    mixed_v.append(sum(weights[i, j] * v[4 * j + w, h] for j in sources))
                local = (q[own[i], h] @ k[own[i], h].T / 3**0.5).softmax(-1) @ v[own[i], h]
                mixed = (q[own[i], h] @ torch.stack(mixed_k).T / 3**0.5).softmax(-1) @ torch.stack(mixed_v)
                out.append(local + mixed)
            heads.append(torch.cat(out))
        return mixer.out(torch.cat(heads, dim=-1))

    x, mask = ragged(8, *lengths, total=max(lengths) + 5)
    # a single block has nothing to sort
    parameters = [p for name, p in mixer.named_parameters() if max(lengths) > 4 or not name.startswith("sort")]
    assert_same(mixer(x, mask)[mask], by_row(loop, x, mask), [x, *parameters])


def test_low_temperature_gives_a_permutation():
    torch.manual_seed(0)
    scores = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    weights = sinkhorn(scores / 0.01, torch.ones(1, 6, dtype=torch.bool), 2000)
    assert weights.amax(-1).min() > 0.99
    assert sorted(weights[0, 0].argmax(-1).tolist()) == list(range(6))


def test_gumbel_noise_acts_only_in_training():
    torch.manual_seed(0)
    mixer = SinkhornAttention(8, 20, block=4, gumbel=True).double()
    x, mask = ragged(8, 20)
    assert not torch.equal(mixer(x, mask), mixer(x, mask))
    mixer.eval()
    assert torch.equal(mixer(x, mask), mixer(x, mask))


def test_blocks_are_at_most_half_of_max_len():
    assert SinkhornAttention(8, 30, block=50).block == 15
