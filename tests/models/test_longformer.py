"""Longformer against dense attention under its mask, and against the transformers library."""

import pytest
import torch
from transformers.models.longformer.configuration_longformer import LongformerConfig
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

from helpers.comparison import assert_same, copy_projections, dense_attention, ragged
from models.longformer import Longformer


@pytest.mark.parametrize("n_global", [0, 1, 3])
@pytest.mark.parametrize(("lengths", "window"), [((16, 9), 8), ((17, 3), 4), ((5, 2), 16)])
def test_equals_masked_dense_attention(lengths, window, n_global):
    torch.manual_seed(0)
    mixer = Longformer(8, 32, window=window, n_global=n_global, n_heads=2, d_qkv=4).double()
    x, mask = ragged(8, *lengths, total=max(lengths) + 2)
    i = torch.arange(x.shape[1])
    near = (i[:, None] - i).abs() <= window // 2
    expected = dense_attention(*mixer.qkv_heads(x, mask), (near | (i < n_global)) & mask[:, None, None])
    if n_global:
        q, k, v = mixer.qkv_global(x).unflatten(-1, (3, 2, 2)).unbind(2)
        of_global = dense_attention(q, k, v, mask[:, None, None].expand(-1, 1, x.shape[1], -1))
        expected = torch.cat([of_global[:, :n_global], expected[:, n_global:]], dim=1)
    assert_same(mixer(x, mask)[mask], mixer.out(expected)[mask], [x, *mixer.parameters()])


@pytest.mark.parametrize("n_global", [0, 2])
def test_equals_transformers_library(n_global):
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "attention_window": [8], "attention_probs_dropout_prob": 0.0}
    torch.manual_seed(0)
    theirs = LongformerSelfAttention(LongformerConfig(**sizes), layer_id=0).double()
    ours = Longformer(8, 32, window=8, n_global=n_global, n_heads=2).double()
    copy_projections(theirs, ours.qkv)
    if n_global:
        copy_projections(theirs, ours.qkv_global, "_global")
    # the library requires lengths that are multiples of the window
    x, mask = ragged(8, 24, 13)
    code = torch.where(mask, 0.0, -10000.0).double()
    code[:, :n_global] = 10000.0
    masks = {"is_index_masked": code < 0, "is_index_global_attn": code > 0, "is_global_attn": n_global > 0}
    (y,) = theirs(x, attention_mask=code, **masks)
    # the library's module has no output projection; its gradients are nan at padded positions
    theirs_out, ours_out = ours.out(y)[mask], ours(x, mask)[mask]
    torch.testing.assert_close(ours_out, theirs_out)
    weight = torch.randn_like(ours_out)
    grads = [torch.autograd.grad((out * weight).sum(), x)[0][mask] for out in (ours_out, theirs_out)]
    torch.testing.assert_close(*grads)


def test_odd_window_is_refused():
    with pytest.raises(ValueError, match="window 7 is not a positive even number"):
        Longformer(8, 16, window=7)
