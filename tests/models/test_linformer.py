"""Linformer against equation 7 written out, and against full attention where the projection is the identity."""

import pytest
import torch

from models.linformer import Linformer


@pytest.mark.parametrize("share_kv", [True, False])
def test_equals_equation_seven_on_the_real_positions_of_each_row(share_kv, assert_same, ragged):
    torch.manual_seed(0)
    mixer = Linformer(8, 12, d_projected=3, share_kv=share_kv, n_heads=2, d_qkv=4).double()
    x, mask = ragged(8, 9, 5)
    rows = []
    for row, length in zip(x, mask.sum(1).tolist(), strict=True):
        q, k, v = mixer.qkv(row[:length]).chunk(3, dim=-1)
        heads = []
        for h in range(2):
            qh, kh, vh = (t[:, 2 * h : 2 * h + 2] for t in (q, k, v))
            kh, vh = mixer.project[0, :, :length] @ kh, mixer.project[-1, :, :length] @ vh
            heads.append((qh @ kh.T / 2**0.5).softmax(-1) @ vh)
        y = mixer.out(torch.cat(heads, dim=-1))
        rows.append(torch.cat([y, torch.zeros(9 - length, 8, dtype=y.dtype)]))
    assert_same(mixer(x, mask), torch.stack(rows), [x, *mixer.parameters()], mask)


def test_the_identity_projection_is_full_attention(dense_attention):
    torch.manual_seed(0)
    mixer = Linformer(8, 6, d_projected=6, n_heads=2).double()
    with torch.no_grad():
        mixer.project.copy_(torch.eye(6)[None])
    x, mask = torch.randn(2, 6, 8, dtype=torch.float64), torch.ones(2, 6, dtype=torch.bool)
    q, k, v = mixer.qkv(x).unflatten(-1, (3, 2, 4)).unbind(2)
    expected = mixer.out(dense_attention(q, k, v, mask[:, None, None]))
    torch.testing.assert_close(mixer(x, mask), expected)


def test_keys_and_values_share_a_projection_only_on_request():
    assert Linformer(8, 12, d_projected=3).project.shape == (1, 3, 12)
    assert Linformer(8, 12, d_projected=3, share_kv=False).project.shape == (2, 3, 12)


def test_projected_keys_start_at_the_size_of_those_before():
    torch.manual_seed(0)
    projected = Linformer(8, 4096, d_projected=64).project[0] @ torch.randn(4096, 64)
    assert projected.std().item() == pytest.approx(1, abs=0.1)


def test_an_input_longer_than_the_projection_is_refused():
    with pytest.raises(ValueError, match="input has 13 positions, the projection was built for max_len 12"):
        Linformer(8, 12)(torch.zeros(1, 13, 8), torch.ones(1, 13, dtype=torch.bool))
