"""Pack and unpack against torch's own attention; the encoder layer by layer."""

import pytest
import torch
from torch import nn

from helpers.comparison import assert_same, ragged
from models.luna import Luna, LunaAttention


def torch_attention(query, query_map, keys, kv_map, out, n_heads, mask):
    """nn.MultiheadAttention with the weights of our maps."""
    width = query.shape[-1]
    theirs = nn.MultiheadAttention(width, n_heads, batch_first=True).double()
    kv_weight, kv_bias = kv_map.weight, kv_map.bias
    if len(kv_weight) == width:
        kv_weight, kv_bias = kv_weight.repeat(2, 1), kv_bias.repeat(2)
    weights = {
        "in_proj_weight": torch.cat([query_map.weight, kv_weight]),
        "in_proj_bias": torch.cat([query_map.bias, kv_bias]),
        "out_proj.weight": torch.eye(width, dtype=query.dtype) if out is None else out.weight,
        "out_proj.bias": torch.zeros(width, dtype=query.dtype) if out is None else out.bias,
    }
    options = {"key_padding_mask": None if mask is None else ~mask, "need_weights": False}
    return torch.func.functional_call(theirs, weights, (query, keys, keys), options)[0]


@pytest.mark.parametrize("tie_kv", [True, False])
def test_pack_and_unpack_equal_torch_attention(tie_kv):
    torch.manual_seed(0)
    ours = LunaAttention(8, n_heads=2, tie_kv=tie_kv, dropout=0.0).double()
    assert len(ours.pack_kv.weight) == len(ours.kv.weight) == (8 if tie_kv else 16)
    (x, mask), (p, _) = ragged(8, 9, 4), ragged(8, 3, 3, seed=1)
    y, packed = ours(x, p, mask)
    their_packed = torch_attention(p, ours.pack_query, x, ours.pack_kv, None, 2, mask)
    theirs = torch_attention(x, ours.query, their_packed, ours.kv, ours.out, 2, None)
    torch.testing.assert_close(packed, their_packed)
    assert_same(y[mask], theirs[mask], [x, p, *ours.parameters()])


@pytest.mark.parametrize("prenorm", [True, False])
def test_packed_sequence_passes_from_layer_to_layer(prenorm):
    torch.manual_seed(0)
    encoder = Luna(8, 16, n_layers=2, n_packed=3, n_heads=2, prenorm=prenorm).double()
    x, mask = ragged(8, 9, 4)
    h, p = x.masked_fill(~mask[..., None], 0), encoder.p.expand(2, -1, -1)
    for layer in encoder.layers:
        if prenorm:
            a, b = layer.attention(layer.norm_x(h), layer.norm_p(p), mask)
            h, p = h + a, p + b
            h = h + layer.feed(layer.norm_feed(h))
        else:
            a, b = layer.attention(h, p, mask)
            h, p = layer.norm_x(h + a), layer.norm_p(p + b)
            h = layer.norm_feed(h + layer.feed(h))
    norm = nn.LayerNorm(8).double() if prenorm else nn.Identity()
    torch.testing.assert_close(encoder(x, mask), norm(h))
    # the second layer does not get the first packed sequence again
    h = x.masked_fill(~mask[..., None], 0)
    for layer in encoder.layers:
        h, _ = layer(h, encoder.p.expand(2, -1, -1), mask)
    assert not torch.allclose(encoder(x, mask), norm(h), rtol=1e-4)


@pytest.mark.parametrize("prenorm", [True, False])
def test_all_parameters_get_gradients_and_padding_is_ignored(prenorm):
    torch.manual_seed(0)
    encoder = Luna(8, 16, n_layers=2, n_packed=3, n_heads=2, prenorm=prenorm).double()
    x, mask = ragged(8, 9, 4)
    y = encoder(x, mask)
    with_nan = x.detach().masked_fill(~mask[..., None], torch.nan)
    torch.testing.assert_close(encoder(with_nan, mask)[mask], y[mask], rtol=0, atol=0)
    (y[mask] ** 3).sum().backward()
    # a shift of all keys does not change a softmax: with untied keys the key biases would have none
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 1e-12] == []


def test_default_d_ff_is_four_times_d_model():
    encoders = [Luna(8, 16, n_layers=1, n_packed=3, d_ff=d_ff) for d_ff in (None, 5)]
    assert [encoder.layers[0].feed[0].out_features for encoder in encoders] == [32, 5]
