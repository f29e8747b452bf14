"""Every kind of score written out for single pairs of positions, and dot products alone against full attention."""

import pytest
import torch

from models.synthesizer import PARTS, Synthesizer


def score(mixer, row, h, i, j):
    """The summed score of query i and key j in head h, from the definitions."""
    width = mixer.v.out_features // mixer.n_heads
    own = slice(h * width, (h + 1) * width)
    total = torch.zeros((), dtype=row.dtype)
    if "dot" in mixer.parts:
        (q, _), (_, k) = mixer.qk(row[i]).chunk(2), mixer.qk(row[j]).chunk(2)
        total = total + q[own] @ k[own] / width**0.5
    if "random" in mixer.parts:
        total = total + mixer.random[h, i, j]
    if "factorised_random" in mixer.parts:
        total = total + mixer.left[h, i] @ mixer.right[h, j]
    if "dense" in mixer.parts or "factorised_dense" in mixer.parts:
        hidden = mixer.hidden(row[i])[own].clamp(min=0)
    if "dense" in mixer.parts:
        total = total + mixer.dense(hidden)[j]
    if "factorised_dense" in mixer.parts:
        a, b = mixer.rows(hidden), mixer.columns(hidden)
        total = total + a[j // len(b)] * b[j % len(b)]
    return total


@pytest.mark.parametrize(
    "parts", [*((part,) for part in PARTS), ("factorised_random", "dot"), ("random", "dot"), ("dense", "random"), PARTS]
)
def test_scores_equal_their_definitions(parts, assert_same, ragged):
    torch.manual_seed(0)
    mixer = Synthesizer(8, 7, parts=parts, rank=3, n_heads=2, d_qkv=4, dropout=0.5).double().eval()
    x, mask = ragged(8, 5, 3, total=6)
    rows = []
    for row, length in zip(x, mask.sum(1).tolist(), strict=True):
        v = mixer.v(row[:length]).unflatten(-1, (2, 2))
        heads = []
        for h in range(2):
            scores = torch.stack([score(mixer, row, h, i, j) for i in range(length) for j in range(length)])
            heads.append(scores.view(length, length).softmax(-1) @ v[:, h])
        y = mixer.out(torch.cat(heads, dim=-1))
        rows.append(torch.cat([y, torch.zeros(6 - length, 8, dtype=y.dtype)]))
    assert_same(mixer(x, mask), torch.stack(rows), [x, *mixer.parameters()], mask)


@pytest.mark.parametrize("parts", [("dot",), ("random",)])
def test_weights_are_dropped_in_training(parts, ragged):
    """By the fused kernel and by hand."""
    torch.manual_seed(0)
    mixer = Synthesizer(8, 7, parts=parts, n_heads=2, dropout=0.5).double()
    x, mask = ragged(8, 7, 5)
    assert not torch.allclose(mixer(x, mask), mixer.eval()(x, mask))


def test_only_the_parts_asked_for_have_parameters():
    def count(parts):
        return sum(p.numel() for p in Synthesizer(8, 100, parts=parts, rank=3, n_heads=2).parameters())

    base = 2 * (8 * 8 + 8)
    assert count(("dot",)) == base + 2 * (8 * 8 + 8)
    assert count(("random",)) == base + 2 * 100 * 100
    assert count(("factorised_random",)) == base + 2 * 2 * 100 * 3
    assert count(("dense",)) == base + 8 * 8 + 8 + (4 + 1) * 100
    assert count(("factorised_dense",)) == base + 8 * 8 + 8 + (4 + 1) * 20


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="parts: 'mixed' is not one of dot, random"):
        Synthesizer(8, 7, parts=["mixed"])
    with pytest.raises(ValueError, match="parts is empty"):
        Synthesizer(8, 7, parts=[])
    with pytest.raises(ValueError, match="input has 8 positions, the scores were built for max_len 7"):
        Synthesizer(8, 7)(torch.zeros(1, 8, 8), torch.ones(1, 8, dtype=torch.bool))
