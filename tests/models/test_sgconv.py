"""SGConv against a loop over taps, and its kernel against its definition."""

import pytest
import torch
import torch.nn.functional as F

from helpers.comparison import assert_same, by_row, convolve, ragged
from models.sgconv import SGConv


def build(max_len: int = 16, **arguments) -> SGConv:
    torch.manual_seed(0)
    return SGConv(4, max_len, **({"kernel_dim": 2} | arguments)).double().eval()


def stretched(taps, factor):
    """Linear interpolation between the centres of the stretched taps, constant beyond the outermost centres."""
    at = (torch.arange(len(taps) * factor, dtype=torch.float64) + 0.5) / factor - 0.5
    low = at.floor().clamp(0, len(taps) - 1)
    high = (low + 1).clamp(max=len(taps) - 1)
    part = (at - low).clamp(0, 1)
    return taps[low.long()] * (1 - part) + taps[high.long()] * part


@pytest.mark.parametrize(("init_scale", "widths"), [(0, [3, 3, 6, 12]), (1, [6, 6, 12])])
def test_scales_double_and_decay(init_scale, widths):
    model = build(24, kernel_dim=3, init_scale=init_scale, decay_min=1.5, decay_max=3.0)
    decay = torch.linspace(1.5, 3.0, 4).double()
    kernels = [
        torch.cat(
            [
                stretched(model.weights[i, k, h], width // 3) * decay[h] ** (len(widths) - 1 - i)
                for i, width in enumerate(widths)
            ]
        )
        for k in range(2)
        for h in range(4)
    ]
    expected = torch.stack(kernels).view(2, 4, -1) / model.norm
    assert_same(model.kernel(), expected, [model.weights], rtol=1e-6, atol=1e-6)  # strengths are float32 buffers


def test_decay_power_applies_before_the_norm():
    flat, decaying = (build(24, kernel_dim=3, decay_power=power) for power in (0.0, 1.5))
    taps = flat.kernel() * flat.norm / torch.arange(1, flat.kernel().shape[-1] + 1, dtype=torch.float64) ** 1.5
    torch.testing.assert_close(decaying.kernel(), taps / taps.norm(dim=-1, keepdim=True), rtol=1e-6, atol=1e-6)


def test_kernels_start_with_norm_one():
    norm = build(100).kernel().norm(dim=-1)
    torch.testing.assert_close(norm, torch.ones_like(norm), rtol=1e-6, atol=0)


@pytest.mark.parametrize("max_len", [1, 2, 3, 16, 17, 1000])
@pytest.mark.parametrize("kernel_dim", [1, 2, 32])
def test_kernel_covers_max_len(max_len, kernel_dim):
    assert build(max_len, kernel_dim=kernel_dim).kernel().shape[-1] >= max_len


def test_equals_a_loop_over_taps():
    model = build()

    def loop(row):
        value, gate = model.out(F.gelu(convolve(row, model.kernel(), model.D))).chunk(2, dim=-1)
        return value * gate.sigmoid()

    x, mask = ragged(4, 12, 5, 1)
    assert_same(model(x, mask)[mask], by_row(loop, x, mask), [x, model.weights, model.D])


def test_cosines_start_as_whole_periods():
    weights = build(16, init="cos", kernel_dim=9).weights
    torch.testing.assert_close(weights[..., 0], weights[..., -1], rtol=0, atol=1e-5)
    torch.testing.assert_close(weights[..., 0], torch.ones_like(weights[..., 0]))


def test_unknown_init_is_refused():
    with pytest.raises(ValueError, match="init: 'zeros'"):
        build(init="zeros")
