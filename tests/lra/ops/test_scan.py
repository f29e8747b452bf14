"""Scan against its loop, in values and gradients, on both code paths."""

import pytest
import torch

from lra.ops.scan import scan, scan_loop

# shapes of a and b
SHAPES = [
    ((2, 1, 3), (2, 1, 3)),
    ((2, 7, 3), (2, 7, 3)),
    ((2, 63, 3, 2), (2, 63, 3, 2)),
    ((1, 1, 3), (2, 17, 3)),
    ((2, 1, 3), (2, 17, 3)),
    ((1, 17, 3), (2, 17, 3)),
    ((2, 17, 3, 1), (2, 17, 3, 4)),
    ((2, 9), (2, 9)),
]


@pytest.fixture(params=["compiled", "blocks"])
def path(request, monkeypatch):
    """The compiled loop of the CPU, and the blocks of all other devices."""
    monkeypatch.setattr("lra.ops.scan.runs_compiled", lambda device: request.param == "compiled")


def draw(shape, dtype):
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def values_and_gradients(f, *inputs):
    h = f(*inputs)
    weight = torch.linspace(0.5, 1.5, h.numel(), device=h.device).view(h.shape)
    return h, *torch.autograd.grad((h.abs() ** 2 * weight).sum(), inputs)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("a_shape", "b_shape"), SHAPES)
def test_scan_equals_loop(a_shape, b_shape, dtype, reverse, path):
    torch.manual_seed(0)
    inputs = draw(a_shape, dtype), draw(b_shape, dtype), draw((b_shape[0], *b_shape[2:]), dtype)
    fast, slow = (values_and_gradients(lambda *x, f=f: f(*x, reverse=reverse), *inputs) for f in (scan, scan_loop))
    for found, expected in zip(fast, slow, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_float32_error_over_a_long_memory():
    torch.manual_seed(0)
    a, b = torch.full((1, 1, 4), 0.9999), torch.randn(2, 16384, 4)
    exact = scan_loop(a.double(), b.double())
    assert (scan(a, b) - exact).abs().max() / exact.abs().max() < 1e-5


def test_bf16_is_computed_in_float32():
    torch.manual_seed(0)
    a, b = torch.rand(2, 50, 3, dtype=torch.bfloat16), torch.randn(2, 50, 3, dtype=torch.bfloat16)
    h = scan(a, b)
    assert h.dtype == torch.bfloat16
    torch.testing.assert_close(h, scan_loop(a.float(), b.float()).bfloat16())


def test_real_decay_with_complex_input():
    torch.manual_seed(0)
    a, b = torch.rand(1, 1, 3, dtype=torch.float64), torch.randn(2, 8, 3, dtype=torch.complex128)
    torch.testing.assert_close(scan(a, b), scan_loop(a, b))


def test_initial_state_continues_a_scan():
    torch.manual_seed(0)
    a, b = torch.rand(2, 20, 3), torch.randn(2, 20, 3)
    first = scan(a[:, :9], b[:, :9])
    second = scan(a[:, 9:], b[:, 9:], first[:, -1])
    torch.testing.assert_close(torch.cat([first, second], 1), scan(a, b))


def test_empty_batch(path):
    a, b = draw((1, 1, 3), torch.float64), draw((0, 9, 3), torch.float64)
    h = scan(a, b)
    h.sum().backward()
    assert (h.shape, b.grad.shape, a.grad.abs().max()) == ((0, 9, 3), (0, 9, 3), 0)


def test_mismatched_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 5, 3\).*\(2, 6, 3\)"):
        scan(torch.zeros(2, 5, 3), torch.zeros(2, 6, 3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_gpu_equals_cpu(dtype, reverse):
    torch.manual_seed(0)
    inputs = 0.7 * torch.rand(2, 1000, 5, dtype=dtype), torch.randn(2, 1000, 5, dtype=dtype)
    cpu, gpu = (
        values_and_gradients(
            lambda *x: scan(*x, reverse=reverse), *(x.to(device, copy=True).requires_grad_() for x in inputs)
        )
        for device in ("cpu", "cuda")
    )
    for x, y in zip(cpu, gpu, strict=True):
        torch.testing.assert_close(y.cpu(), x, rtol=1e-4, atol=1e-4)
