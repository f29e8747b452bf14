"""Full attention against torch's own module and against the formula written out."""

import pytest
import torch
from torch import nn

from models.transformer import Attention


def batch(d_model, *, n_rows=3, length=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_rows, length, d_model, dtype=torch.float64, generator=generator)
    mask = torch.arange(length) < torch.tensor([length, length - 3, 1])[:n_rows, None]
    return x, mask


def test_attention_and_its_gradients_equal_torch_multihead_attention():
    torch.manual_seed(0)
    ours = Attention(12, 9, n_heads=3).double()
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x, mask = batch(12)
    x[~mask] = 0.0
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = ours(a, mask)
    z, _ = theirs(b, b, b, key_padding_mask=~mask)
    torch.testing.assert_close(y, z)
    weight = torch.randn_like(y) * mask[..., None]
    (y * weight).sum().backward()
    (z * weight).sum().backward()
    torch.testing.assert_close(a.grad[mask], b.grad[mask])
    torch.testing.assert_close(ours.qkv.weight.grad, theirs.in_proj_weight.grad)


def test_narrow_queries_equal_the_formula():
    torch.manual_seed(0)
    mixer = Attention(12, 9, n_heads=2, d_qkv=6).double()
    x, mask = batch(12)
    q, k, v = mixer.qkv(x).unflatten(-1, (3, 2, 3)).unbind(2)
    scores = torch.einsum("bihk,bjhk->bhij", q, k) / 3**0.5
    weights = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
    expected = mixer.out(torch.einsum("bhij,bjhk->bihk", weights, v).flatten(-2))
    torch.testing.assert_close(mixer(x, mask)[mask], expected[mask])


def test_not_even_nan_in_the_padding_reaches_a_real_position():
    mixer = Attention(12, 9, n_heads=2).double()
    x, mask = batch(12)
    spoilt = x.masked_fill(~mask[..., None], torch.nan)
    torch.testing.assert_close(mixer(spoilt, mask)[mask], mixer(x, mask)[mask], rtol=0, atol=0)


def test_dropout_acts_only_while_training():
    torch.manual_seed(0)
    mixer = Attention(12, 9, dropout=0.5).double()
    x, mask = batch(12)
    assert not torch.equal(mixer(x, mask), mixer(x, mask))
    mixer.eval()
    assert torch.equal(mixer(x, mask), mixer(x, mask))


def test_heads_that_do_not_divide_the_width_are_named():
    with pytest.raises(ValueError, match="d_qkv 10 is not a multiple of n_heads 4"):
        Attention(10, 8, n_heads=4)
