"""The masked dense attention that every block-sparse one must equal, and the comparison of values and gradients."""

import pytest
import torch


def dense_attention(q, k, v, allowed):
    """Softmax attention over the pairs (query, key) in allowed; q, k, v (B, L, H, K), allowed (B, 1 or H, L, L)."""
    scores = torch.einsum("bihk,bjhk->bhij", q, k) / q.shape[-1] ** 0.5
    # a padded query may have no key at all; its row is compared nowhere
    weights = scores.masked_fill(~allowed, -1e30).softmax(-1)
    return torch.einsum("bhij,bjhk->bihk", weights, v).flatten(-2)


def assert_same(ours, theirs, inputs, mask):
    """Equal values at the real positions, and equal gradients of the same weighted sum for every input."""
    torch.testing.assert_close(ours[mask], theirs[mask])
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(ours.shape, dtype=ours.dtype, generator=generator) * mask[..., None]
    inputs = list(inputs)
    a = torch.autograd.grad((ours * weight).sum(), inputs, retain_graph=True)
    b = torch.autograd.grad((theirs * weight).sum(), inputs)
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other)


@pytest.fixture(name="dense_attention")
def _dense_attention():
    return dense_attention


@pytest.fixture(name="assert_same")
def _assert_same():
    return assert_same


@pytest.fixture
def ragged():
    """(x, mask) with rows of the given real lengths, float64, garbage in the padding, gradients wanted."""

    def make(d_model, *lengths, total=None, seed=0):
        total = max(lengths) if total is None else total
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(len(lengths), total, d_model, dtype=torch.float64, generator=generator)
        return x.requires_grad_(), torch.arange(total) < torch.tensor(lengths)[:, None]

    return make
