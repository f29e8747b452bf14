"""Selective scan against its loop, in values and gradients, on all code paths."""

import pytest
import torch

from lra.ops.selective_scan import SAVE_EVERY, SelectiveScan, channel_ranges, selective_scan, selective_scan_loop
from lra.profiling.timing import peak_bytes


def draw(batch: int, length: int, channels: int, states: int, dtype=torch.float64) -> list[torch.Tensor]:
    """Random u, dt, A, B, C of the same magnitude as Mamba's at initialisation."""
    u, dt = torch.randn(2, batch, length, channels, dtype=torch.float64)
    A = -torch.rand(channels, states, dtype=torch.float64) * states
    B, C = torch.randn(2, batch, length, states, dtype=torch.float64)
    return [x.to(dtype).requires_grad_() for x in (u, 0.1 * (dt / 2).exp(), A, B, C)]


def values_and_gradients(scan, inputs, weight):
    y = scan(*inputs)
    return y, *torch.autograd.grad((y * weight.to(y.dtype)).sum(), inputs)


@pytest.mark.parametrize("path", ["compiled", "one chunk", "many chunks"])
@pytest.mark.parametrize("sizes", [(2, 1, 3, 4), (1, 16, 1, 1), (3, 17, 5, 2), (2, 63, 3, 4), (1, 200, 37, 16)])
def test_equals_loop(sizes, path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr("lra.ops.selective_scan.runs_compiled", lambda device: path == "compiled")
    inputs, weight = draw(*sizes), torch.randn(sizes[:3], dtype=torch.float64)
    max_states = 1 if path == "many chunks" else 2**26
    fast = values_and_gradients(lambda *x: selective_scan(*x, max_states=max_states), inputs, weight)
    slow = values_and_gradients(selective_scan_loop, inputs, weight)
    for found, expected in zip(fast, slow, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [5, 700])
def test_float32_error(length):
    torch.manual_seed(0)
    inputs = draw(2, length, 21, 16)
    weight = torch.randn(2, length, 21, dtype=torch.float64)
    slow = values_and_gradients(selective_scan_loop, inputs, weight)
    fast = values_and_gradients(selective_scan, [x.detach().float().requires_grad_() for x in inputs], weight)
    for name, found, expected in zip(("y", "u", "dt", "A", "B", "C"), fast, slow, strict=True):
        error = (found - expected).abs().max() / expected.abs().max()
        assert error < 2e-6, (name, float(error))


def test_polynomial_exponential_is_accurate():
    exponents = torch.cat([-torch.logspace(-6, 1.93, 2000, dtype=torch.float64), torch.tensor([0.0, -1e3, -1e30])])
    # the output at the second position is exp(dt A), since the first state is 1
    u = torch.zeros(1, 2, len(exponents))
    u[0, 0] = 1.0
    dt = torch.ones_like(u)
    B, C = torch.ones(1, 2, 1), torch.ones(1, 2, 1)
    y = selective_scan(u, dt, exponents.float()[:, None], B, C)[0, 1].double()
    exact = exponents.float().double().exp()
    torch.testing.assert_close(y, exact, rtol=4e-7, atol=1e-37)


def test_splitting_channels_over_threads(monkeypatch):
    torch.manual_seed(0)
    inputs, weight = draw(1, 40, 7, 4), torch.randn(1, 40, 7, dtype=torch.float64)
    single = values_and_gradients(selective_scan, inputs, weight)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert channel_ranges(1, 7) == 3
    threaded = values_and_gradients(selective_scan, inputs, weight)
    for a, b in zip(single, threaded, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_propagate(bad):
    inputs = [x.detach() for x in draw(1, 40, 3, 4, torch.float32)]
    inputs[0][0, 5, 1] = bad
    y = selective_scan(*inputs)
    assert not y[0, 5:, 1].isfinite().any()
    assert y[0, :, 0].isfinite().all()


def test_no_tensor_holds_all_states():
    torch.manual_seed(0)
    inputs = draw(2, 512, 64, 16, torch.float32)
    peak = peak_bytes(lambda: selective_scan(*inputs).sum().backward(), torch.device("cpu"))
    all_states = 4 * 2 * 512 * 64 * 16
    assert peak < all_states
    assert SelectiveScan.apply(*inputs)[0].grad_fn.saved_tensors[-1].numel() == 2 * 512 // SAVE_EVERY * 64 * 16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_equals_cpu():
    torch.manual_seed(0)
    inputs = draw(2, 300, 21, 16, torch.float32)
    weight = torch.randn(2, 300, 21)
    cpu = values_and_gradients(selective_scan, inputs, weight)
    gpu = values_and_gradients(selective_scan, [x.detach().cuda().requires_grad_() for x in inputs], weight.cuda())
    for found, expected in zip(gpu, cpu, strict=True):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)
