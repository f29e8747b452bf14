"""Pack and unpack against torch's own attention; the encoder layer by layer."""

import pytest
import torch
from torch import nn

from models.luna import Luna, LunaAttention


def torch_attention(query, query_map, keys, kv_map, out, n_heads, mask):
    """nn.MultiheadAttention with the weights of our maps."""
    theirs = nn.MultiheadAttention(query.shape[-1], n_heads, batch_first=True).double()
    kv_weight, kv_bias = kv_map.weight, kv_map.bias
    if len(kv_weight) == query.shape[-1]:
        kv_weight, kv_bias = kv_weight.repeat(2, 1), kv_bias.repeat(2)
    weights = {
        "in_proj_weight": torch.cat([query_map.weight, kv_weight]),
        "in_proj_bias": torch.cat([query_map.bias, kv_bias]),
        "out_proj.weight": torch.eye(query.shape[-1], dtype=query.dtype) if out is None else out.weight,
        "out_proj.bias": torch.zeros(query.shape[-1], dtype=query.dtype) if out is None else out.bias,
    }
    ignore = None if mask is None else ~mask
    arguments = (query, keys, keys)
    options = {"key_padding_mask": ignore, "need_weights": False}
    return torch.func.functional_call(theirs, weights, arguments, options)[0]


@pytest.mark.parametrize("tie_kv", [True, False])
def test_pack_and_unpack_equal_torch_attention(tie_kv, assert_same, ragged):
    torch.manual_seed(0)
    ours = LunaAttention(8, n_heads=2, tie_kv=tie_kv, dropout=0.0).double()
    assert len(ours.pack_kv.weight) == len(ours.kv.weight) == (8 if tie_kv else 16)
    x, mask = ragged(8, 9, 4)
    p = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    y, packed = ours(x, p, mask)
    their_packed = torch_attention(p, ours.pack_query, x, ours.pack_kv, None, 2, mask)
    theirs = torch_attention(x, ours.query, their_packed, ours.kv, ours.out, 2, None)
    torch.testing.assert_close(packed, their_packed)
    assert_same(y, theirs, [x, p, *ours.parameters()], mask)


@pytest.mark.parametrize("prenorm", [True, False])
def test_the_encoder_carries_the_packed_sequence_from_layer_to_layer(prenorm, ragged):
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
    # and not meet the first one's packed sequence again
    forgetful = x.masked_fill(~mask[..., None], 0)
    for layer in encoder.layers:
        forgetful, _ = layer(forgetful, encoder.p.expand(2, -1, -1), mask)
    assert not torch.allclose(encoder(x, mask), norm(forgetful), rtol=1e-4)


@pytest.mark.parametrize("prenorm", [True, False])
def test_every_parameter_learns_and_padding_does_not_matter(prenorm, ragged):
    torch.manual_seed(0)
    encoder = Luna(8, 16, n_layers=2, n_packed=3, n_heads=2, prenorm=prenorm).double()
    x, mask = ragged(8, 9, 4)
    y = encoder(x, mask)
    spoilt = x.detach().masked_fill(~mask[..., None], torch.nan)
    torch.testing.assert_close(encoder(spoilt, mask)[mask], y[mask], rtol=0, atol=0)
    (y[mask] ** 3).sum().backward()
    # a shift of all keys does not change a softmax: with untied keys the key biases would have none
    still = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 1e-12]
    assert still == []


def test_the_network_is_four_times_as_wide_as_the_model_unless_told():
    made = [Luna(8, 16, n_layers=1, n_packed=3, d_ff=d_ff) for d_ff in (None, 5)]
    assert [encoder.layers[0].feed[0].out_features for encoder in made] == [32, 5]
