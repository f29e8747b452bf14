"""Every kind of score, written out for single pairs of positions."""

import pytest
import torch

from helpers.comparison import assert_same, by_row, ragged
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
def test_scores_equal_their_definitions(parts):
    torch.manual_seed(0)
    mixer = Synthesizer(8, 7, parts=parts, rank=3, n_heads=2, d_qkv=4, dropout=0.5).double().eval()

    def naive(row):
        v, heads = mixer.v(row).unflatten(-1, (2, 2)), []
        for h in range(2):
            scores = torch.stack([score(mixer, row, h, i, j) for i in range(len(row)) for j in range(len(row))])
            heads.append(scores.view(len(row), -1).softmax(-1) @ v[:, h])
        return mixer.out(torch.cat(heads, dim=-1))

    x, mask = ragged(8, 5, 3, total=6)
    assert_same(mixer(x, mask)[mask], by_row(naive, x, mask), [x, *mixer.parameters()])


@pytest.mark.parametrize("parts", [("dot",), ("random",)])  # the fused kernel, and the explicit scores
def test_weights_are_dropped_in_training(parts):
    torch.manual_seed(0)
    mixer = Synthesizer(8, 7, parts=parts, n_heads=2, dropout=0.5).double()
    x, mask = ragged(8, 7, 5)
    assert not torch.allclose(mixer(x, mask), mixer.eval()(x, mask))


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("dot", 2 * (8 * 8 + 8)),
        ("random", 2 * 100 * 100),
        ("factorised_random", 2 * 2 * 100 * 3),
        ("dense", 8 * 8 + 8 + (4 + 1) * 100),
        ("factorised_dense", 8 * 8 + 8 + (4 + 1) * 20),
    ],
)
def test_only_requested_parts_have_parameters(part, expected):
    mixer = Synthesizer(8, 100, parts=(part,), rank=3, n_heads=2)
    assert sum(p.numel() for p in mixer.parameters()) == 2 * (8 * 8 + 8) + expected


def test_unknown_part_is_named():
    with pytest.raises(ValueError, match="parts: 'mixed' is not one of dot, random"):
        Synthesizer(8, 7, parts=["mixed"])
