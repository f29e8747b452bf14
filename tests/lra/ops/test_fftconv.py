"""Long convolution against its definition, in values and gradients."""

import math

import pytest
import torch

from lra.ops.fftconv import PaddedFFT, fast_length, long_conv, transform_length

CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)


def definition(u, kernel, D):
    """The two sums, position by position."""
    L, M = u.shape[-1], kernel.shape[-1]
    y = torch.zeros_like(u) if D is None else D[:, None] * u
    for i in range(L):
        for j in range(L):
            if 0 <= i - j < M:
                y[..., i] = y[..., i] + kernel[0, :, i - j] * u[..., j]
            if len(kernel) == 2 and 0 <= j - i - 1 < M:
                y[..., i] = y[..., i] + kernel[1, :, j - i - 1] * u[..., j]
    return y


def random(*shape, device="cpu", dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, device=device, requires_grad=True)


def check(u, kernel, D, mask=None):
    masked = u if mask is None else u * mask[:, None]
    y, expected = long_conv(u, kernel, D, mask), definition(masked, kernel, D)
    inputs = [x for x in (u, kernel, D) if x is not None]
    weight = torch.randn_like(y)
    gradients = [torch.autograd.grad(x, inputs, weight) for x in (y, expected)]
    for a, b in zip((y, *gradients[0]), (expected, *gradients[1]), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize(("L", "M"), [(1, 1), (2, 2), (7, 7), (9, 4), (8, 20), (13, 1), (16, 16)])
def test_equals_definition(L, M, K, skip, device):
    torch.manual_seed(0)
    D = random(3, device=device) if skip else None
    check(random(2, 3, L, device=device), random(K, 3, M, device=device), D)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_masked_blocks_equal_definition(rows, skip, monkeypatch):
    torch.manual_seed(0)
    u, kernel, D = random(5, 3, 9), random(2, 3, 9), random(3) if skip else None
    n = transform_length(9, kernel)
    monkeypatch.setattr("lra.ops.fftconv.BLOCK", {"cpu": rows * 3 * n})
    assert len(PaddedFFT(u, n, u.dtype).blocks) == math.ceil(5 / rows)
    check(u, kernel, D, torch.arange(9) < torch.tensor([9, 4, 7, 1, 8])[:, None])


def test_kernel_reaches_both_ends_without_wrapping():
    u = torch.zeros(1, 1, 6, dtype=torch.float64)
    u[..., -1] = 1
    kernel = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(2, 1, 6)
    assert long_conv(u, kernel).round(decimals=9).tolist() == [[[11, 10, 9, 8, 7, 1]]]


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_bf16_input_is_computed_in_float32(device):
    torch.manual_seed(0)
    u = random(2, 4, 300, device=device, dtype=torch.bfloat16)
    kernel = random(2, 4, 300, device=device, dtype=torch.float32)
    with torch.autocast(device, torch.bfloat16):
        y = long_conv(u, kernel)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, long_conv(u.float(), kernel).bfloat16(), rtol=0, atol=0)
    du, dk = torch.autograd.grad(y.float().sum(), (u, kernel))
    assert (du.dtype, dk.dtype) == (torch.bfloat16, torch.float32)


def test_transform_is_no_longer_than_needed():
    kernel = torch.zeros(1, 1, 1000)
    assert transform_length(1000, kernel) == 2000
    assert transform_length(1000, kernel[..., :10]) == fast_length(1009) == 1024
    assert transform_length(1024, torch.zeros(2, 1, 1024)) == 2048
    assert transform_length(1, torch.zeros(2, 1, 1)) == 2
    assert [fast_length(n) for n in (1, 2, 3, 11, 127, 2049)] == [2, 2, 4, 12, 128, 2058]


def test_empty_batch():
    u, kernel = random(0, 3, 5), random(2, 3, 5)
    y = long_conv(u, kernel)
    y.sum().backward()
    assert (y.shape, u.grad.shape, kernel.grad.abs().max()) == ((0, 3, 5), (0, 3, 5), 0)


def test_mismatched_kernel_is_refused():
    with pytest.raises(ValueError, match=r"kernel \(1, 2, 5\).*\(1, 3, 5\)"):
        long_conv(torch.zeros(1, 3, 5), torch.zeros(1, 2, 5))
