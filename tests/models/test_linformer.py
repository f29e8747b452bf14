"""Linformer against equation 7, and against full attention where the projection is the identity."""

import pytest
import torch

from helpers.comparison import assert_same, by_row, dense_attention, ragged
from models.linformer import Linformer


@pytest.mark.parametrize("share_kv", [True, False])
def test_equals_equation_seven(share_kv):
    torch.manual_seed(0)
    mixer = Linformer(8, 12, d_projected=3, share_kv=share_kv, n_heads=2, d_qkv=4).double()

    def naive(row):
        q, k, v = mixer.qkv(row).chunk(3, dim=-1)
        heads = []
        for h in range(2):
            qh, kh, vh = (t[:, 2 * h : 2 * h + 2] for t in (q, k, v))
            kh, vh = mixer.project[0, :, : len(row)] @ kh, mixer.project[-1, :, : len(row)] @ vh
            heads.append((qh @ kh.T / 2**0.5).softmax(-1) @ vh)
        return mixer.out(torch.cat(heads, dim=-1))

    x, mask = ragged(8, 9, 5)
    assert_same(mixer(x, mask)[mask], by_row(naive, x, mask), [x, *mixer.parameters()])


def test_identity_projection_is_full_attention():
    torch.manual_seed(0)
    mixer = Linformer(8, 6, d_projected=6, n_heads=2).double()
    with torch.no_grad():
        mixer.project.copy_(torch.eye(6)[None])
    x, mask = ragged(8, 6, 6)
    expected = mixer.out(dense_attention(*mixer.qkv_heads(x, mask), mask[:, None, None]))
    torch.testing.assert_close(mixer(x, mask), expected)


def test_projected_keys_start_at_their_old_size():
    torch.manual_seed(0)
    projected = Linformer(8, 4096, d_projected=64).project[0] @ torch.randn(4096, 64)
    assert projected.std().item() == pytest.approx(1, abs=0.1)
