"""The scan against its loop, in values and in every gradient, along both paths."""

import pytest
import torch

from lra.ops.scan import scan, scan_loop

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
DTYPES = [torch.float64, torch.complex128]


def draw(shape, dtype, grad=True):
    return torch.randn(shape, dtype=dtype).requires_grad_(grad)


def gradients(f, inputs):
    out = f(*inputs)
    weight = torch.linspace(0.5, 1.5, out.numel(), dtype=torch.float64).view(out.shape)
    loss = (out.abs() ** 2 * weight).sum()
    return out, torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("path", ["compiled", "blocks"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", SHAPES)
def test_scan_is_the_loop_in_values_and_gradients(shapes, dtype, reverse, path, monkeypatch):
    torch.manual_seed(0)
    a, b = draw(shapes[0], dtype), draw(shapes[1], dtype)
    h0 = draw((shapes[1][0], *shapes[1][2:]), dtype)
    # "blocks" is what every device but the CPU runs
    monkeypatch.setattr("lra.ops.scan.runs_compiled", lambda device: path == "compiled")
    fast, fast_grads = gradients(lambda *x: scan(*x, reverse=reverse), (a, b, h0))
    slow, slow_grads = gradients(lambda *x: scan_loop(*x, reverse=reverse), (a, b, h0))
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    for got, expected in zip(fast_grads, slow_grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_float32_error_stays_at_rounding_over_a_long_memory():
    torch.manual_seed(0)
    a, b = torch.full((1, 1, 4), 0.9999), torch.randn(2, 16384, 4)
    exact = scan_loop(a.double(), b.double())
    assert (scan(a, b) - exact).abs().max() / exact.abs().max() < 1e-5


def test_half_precision_is_computed_in_float32():
    torch.manual_seed(0)
    a, b = torch.rand(2, 50, 3, dtype=torch.bfloat16), torch.randn(2, 50, 3, dtype=torch.bfloat16)
    h = scan(a, b)
    assert h.dtype == torch.bfloat16
    torch.testing.assert_close(h, scan_loop(a.float(), b.float()).bfloat16())


def test_real_decay_takes_a_complex_input():
    torch.manual_seed(0)
    a, b = torch.rand(1, 1, 3, dtype=torch.float64), torch.randn(2, 8, 3, dtype=torch.complex128)
    torch.testing.assert_close(scan(a, b), scan_loop(a, b))


def test_a_scan_in_two_parts_carries_its_state():
    torch.manual_seed(0)
    a, b = torch.rand(2, 20, 3), torch.randn(2, 20, 3)
    first = scan(a[:, :9], b[:, :9])
    second = scan(a[:, 9:], b[:, 9:], first[:, -1])
    torch.testing.assert_close(torch.cat([first, second], 1), scan(a, b))


@pytest.mark.parametrize("path", ["compiled", "blocks"])
def test_an_empty_batch_gives_an_empty_batch_and_no_gradient(path, monkeypatch):
    monkeypatch.setattr("lra.ops.scan.runs_compiled", lambda device: path == "compiled")
    a, b = draw((1, 1, 3), torch.float64), draw((0, 9, 3), torch.float64)
    h = scan(a, b)
    h.sum().backward()
    assert (h.shape, b.grad.shape, a.grad.abs().max()) == ((0, 9, 3), (0, 9, 3), 0)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(2, 5, 3\).*\(2, 6, 3\)"):
        scan(torch.zeros(2, 5, 3), torch.zeros(2, 6, 3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_scan_on_a_device_equals_the_cpu(dtype, reverse):
    torch.manual_seed(0)
    a, b = 0.7 * torch.rand(2, 1000, 5, dtype=dtype), torch.randn(2, 1000, 5, dtype=dtype)
    here = gradients_of(a, b, reverse)
    there = gradients_of(a.cuda(), b.cuda(), reverse)
    for x, y in zip(here, there, strict=True):
        torch.testing.assert_close(y.cpu(), x, rtol=1e-4, atol=1e-4)


def gradients_of(a, b, reverse):
    a, b = a.requires_grad_(), b.requires_grad_()
    h = scan(a, b, reverse=reverse)
    return (h, *torch.autograd.grad(h.abs().square().sum(), (a, b)))
