"""Longformer against dense attention under its mask, and against the transformers library."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from models.longformer import Longformer


def window_mask(length, side, n_global, mask):
    i = torch.arange(length)
    near = (i[:, None] - i).abs() <= side
    return (near | (i < n_global)) & mask[:, None, None]


@pytest.mark.parametrize("n_global", [0, 1, 3])
@pytest.mark.parametrize(("lengths", "window"), [((16, 9), 8), ((17, 3), 4), ((5, 2), 16)])
def test_window_and_global_positions_equal_the_masked_dense_computation(
    lengths, window, n_global, dense_attention, assert_same, ragged
):
    torch.manual_seed(0)
    mixer = Longformer(8, 32, window=window, n_global=n_global, n_heads=2, d_qkv=4).double()
    x, mask = ragged(8, *lengths, total=max(lengths) + 2)
    q, k, v = mixer.qkv(x).unflatten(-1, (3, 2, 2)).unbind(2)
    expected = dense_attention(q, k, v, window_mask(x.shape[1], window // 2, n_global, mask))
    if n_global:
        q, k, v = mixer.qkv_global(x).unflatten(-1, (3, 2, 2)).unbind(2)
        everywhere = dense_attention(q, k, v, mask[:, None, None].expand(-1, 1, x.shape[1], -1))
        expected = torch.cat([everywhere[:, :n_global], expected[:, n_global:]], dim=1)
    assert_same(mixer(x, mask), mixer.out(expected), [x, *mixer.parameters()], mask)


@pytest.mark.parametrize("n_global", [0, 2])
def test_equals_the_transformers_library(n_global, ragged):
    library = pytest.importorskip("transformers.models.longformer.modeling_longformer")
    configuration = pytest.importorskip("transformers.models.longformer.configuration_longformer")
    config = configuration.LongformerConfig(
        hidden_size=8, num_attention_heads=2, attention_window=[8], attention_probs_dropout_prob=0.0
    )
    torch.manual_seed(0)
    theirs = library.LongformerSelfAttention(config, layer_id=0).double()
    ours = Longformer(8, 32, window=8, n_global=n_global, n_heads=2).double()
    with torch.no_grad():
        for name, part in zip(("query", "key", "value"), ours.qkv.weight.chunk(3), strict=True):
            getattr(theirs, name).weight.copy_(part)
        for name, part in zip(("query", "key", "value"), ours.qkv.bias.chunk(3), strict=True):
            getattr(theirs, name).bias.copy_(part)
        if n_global:
            for name, part in zip(("query", "key", "value"), ours.qkv_global.weight.chunk(3), strict=True):
                getattr(theirs, f"{name}_global").weight.copy_(part)
            for name, part in zip(("query", "key", "value"), ours.qkv_global.bias.chunk(3), strict=True):
                getattr(theirs, f"{name}_global").bias.copy_(part)
    # the library wants multiples of the window
    x, mask = ragged(8, 24, 13)
    code = torch.where(mask, 0.0, -10000.0).double()
    code[:, :n_global] = 10000.0
    (y,) = theirs(
        x,
        attention_mask=code,
        is_index_masked=code < 0,
        is_index_global_attn=code > 0,
        is_global_attn=n_global > 0,
    )
    # the output projection is no part of the library's module; its gradients are nan at padded positions
    theirs_out, ours_out = ours.out(y)[mask], ours(x, mask)[mask]
    torch.testing.assert_close(ours_out, theirs_out)
    weight = torch.randn_like(ours_out)
    (a,) = torch.autograd.grad((ours_out * weight).sum(), x)
    (b,) = torch.autograd.grad((theirs_out * weight).sum(), x)
    torch.testing.assert_close(a[mask], b[mask])


def test_an_odd_window_is_refused():
    with pytest.raises(ValueError, match="window 7 is not a positive even number"):
        Longformer(8, 16, window=7)


def test_what_is_dropped_is_dropped_again_for_the_gradient(monkeypatch, ragged):
    """The blocks are attended to a second time in the backward pass."""
    torch.manual_seed(0)
    mixer = Longformer(8, 32, window=4, n_heads=2, dropout=0.5).double()
    x, mask = ragged(8, 17, 5)
    gradients = []
    for again in (checkpoint, lambda function, *args, **_: function(*args)):
        monkeypatch.setattr("models.longformer.checkpoint", again)
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad(mixer(x, mask)[mask].square().sum(), x)[0])
    torch.testing.assert_close(*gradients)
