import pytest
import torch

from models.sgconv import SGConv


def build(max_len: int = 16, **arguments) -> SGConv:
    torch.manual_seed(0)
    return SGConv(4, max_len, **({"kernel_dim": 2} | arguments)).double().eval()


def stretched(taps: torch.Tensor, factor: int) -> torch.Tensor:
    """Linear interpolation between the centres of the stretched taps, constant beyond the outermost centres."""
    at = (torch.arange(len(taps) * factor, dtype=torch.float64) + 0.5) / factor - 0.5
    low = at.floor().clamp(0, len(taps) - 1)
    high = (low + 1).clamp(max=len(taps) - 1)
    part = (at - low).clamp(0, 1)
    return taps[low.long()] * (1 - part) + taps[high.long()] * part


@pytest.mark.parametrize(("init_scale", "widths"), [(0, [3, 3, 6, 12]), (1, [6, 6, 12])])
def test_scales_double_and_decay(init_scale, widths):
    model = build(24, kernel_dim=3, init_scale=init_scale, decay_min=1.5, decay_max=3.0)
    expected = torch.zeros(2, 4, sum(widths), dtype=torch.float64)
    for k in range(2):
        for h in range(4):
            start = 0
            for i, width in enumerate(widths):
                decay = torch.linspace(1.5, 3.0, 4)[h].double()
                taps = stretched(model.weights[i, k, h], width // 3) * decay ** (len(widths) - 1 - i)
                expected[k, h, start : start + width] = taps / model.norm[k, h]
                start += width
    actual = model.kernel()
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)  # strengths are float32 buffers
    weight = torch.randn_like(actual)
    grads = [torch.autograd.grad((y * weight).sum(), model.weights)[0] for y in (actual, expected)]
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-6)


def test_a_power_of_the_position_weakens_the_taps_before_the_norm_is_taken():
    flat, falling = (build(24, kernel_dim=3, decay_power=power) for power in (0.0, 1.5))
    taps = flat.kernel() * flat.norm / torch.arange(1, flat.kernel().shape[-1] + 1, dtype=torch.float64) ** 1.5
    expected = taps / taps.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(falling.kernel(), expected, rtol=1e-6, atol=1e-6)


def test_kernels_start_with_norm_one():
    norm = build(100).kernel().norm(dim=-1)
    torch.testing.assert_close(norm, torch.ones_like(norm), rtol=1e-6, atol=0)


@pytest.mark.parametrize("max_len", [1, 2, 3, 16, 17, 1000])
@pytest.mark.parametrize("kernel_dim", [1, 2, 32])
def test_the_kernel_covers_max_len(max_len, kernel_dim):
    assert build(max_len, kernel_dim=kernel_dim).kernel().shape[-1] >= max_len


def test_equals_a_loop_over_taps():
    model = build()
    x = torch.randn(3, 12, 4, dtype=torch.float64, requires_grad=True)
    lengths = (12, 5, 1)
    mask = torch.arange(12) < torch.tensor(lengths)[:, None]
    taps, expected = model.kernel(), []
    for row, length in enumerate(lengths):
        u, y = x[row, :length], []
        for t in range(length):
            left = sum(taps[0, :, t - s] * u[s] for s in range(t + 1))
            right = sum(taps[1, :, s - t - 1] * u[s] for s in range(t + 1, length))
            y.append(model.D * u[t] + left + right)
        value, gate = model.out(torch.nn.functional.gelu(torch.stack(y))).chunk(2, dim=-1)
        expected.append(value * gate.sigmoid())
    actual, expected = model(x, mask)[mask], torch.cat(expected)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(actual)
    inputs = (x, model.weights, model.D)
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), inputs) for y in (actual, expected)))


def test_cosines_start_as_whole_periods():
    weights = build(16, init="cos", kernel_dim=9).weights
    torch.testing.assert_close(weights[..., 0], weights[..., -1], rtol=0, atol=1e-5)
    torch.testing.assert_close(weights[..., 0], torch.ones_like(weights[..., 0]))


def test_an_unknown_init_is_refused():
    with pytest.raises(ValueError, match="init: 'zeros'"):
        build(init="zeros")
