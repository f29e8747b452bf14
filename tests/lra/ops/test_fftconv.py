"""Long convolution against its definition, in values and gradients."""

import math

import pytest
import torch

from lra.ops import fftconv, fftconv_cpp
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


def value_and_gradients(u, kernel, D, mask, dy):
    inputs = [None if x is None else x.detach().requires_grad_() for x in (u, kernel, D)]
    y = long_conv(*inputs, mask)
    return y, *torch.autograd.grad(y, [x for x in inputs if x is not None], dy)


# L and M: powers of two times 1, 3 and 5, one position, more positions than a block of the cache; H: parts of vectors
@pytest.mark.parametrize("layout", ["features", "positions", "neither"])
@pytest.mark.parametrize(
    ("B", "H", "L", "M", "K"),
    [
        (2, 4, 1, 1, 1),
        (3, 5, 2, 9, 2),
        (2, 17, 23, 23, 2),
        (1, 33, 40, 7, 2),
        (5, 20, 96, 100, 1),
        (2, 16, 2100, 2100, 2),
    ],
)
def test_loops_equal_definition_in_float64(B, H, L, M, K, layout):
    if reason := fftconv_cpp.unavailable_reason():
        pytest.skip(reason)
    torch.manual_seed(0)
    u, dy = torch.randn(2, B, H, L)
    if layout != "positions":
        u = u.mT.contiguous().mT
    if layout == "neither":
        u, dy = torch.stack([u, u], -1)[..., 0], torch.ones(1).expand(B, H, L)
    kernel, D, mask = torch.randn(H, M, K).permute(2, 0, 1), torch.randn(H), torch.rand(B, L) < 0.8
    for options in ((None, mask), (D, None)):
        results = [value_and_gradients(u, kernel, *options, dy)]
        exact = [None if x is None else x.double() for x in (u, kernel, options[0])]
        results.append(value_and_gradients(*exact, options[1], dy.double()))
        for found, expected in zip(*results, strict=True):
            assert (found - expected).norm() <= 5e-7 * expected.norm()
            assert found.stride() == expected.stride()


def test_loops_do_not_depend_on_threads():
    torch.manual_seed(0)
    u, dy, kernel = torch.randn(5, 200, 40).mT, torch.randn(5, 200, 40).mT, torch.randn(2, 40, 200)
    threads, results = torch.get_num_threads(), []
    # more threads than work
    for count in (1, 64):
        torch.set_num_threads(count)
        results.append(value_and_gradients(u, kernel, torch.ones(40), None, dy))
    torch.set_num_threads(threads)
    assert all(map(torch.equal, *results))


def test_missing_compiler_is_said_once(monkeypatch):
    monkeypatch.setattr(fftconv_cpp, "unavailable_reason", lambda: "no compiler")
    fftconv.has_loops.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"slower Fourier transforms \(no compiler\)") as warned:
            results = [long_conv(torch.ones(1, 16, 5), torch.ones(1, 16, 5)) for _ in range(2)]
    finally:
        fftconv.has_loops.cache_clear()
    assert len(warned) == 1
    torch.testing.assert_close(results[1][0, 0], torch.arange(1.0, 6.0))


def test_loops_can_be_switched_off():
    u, kernel = torch.randn(2, 16, 9), torch.randn(1, 16, 9)
    with fftconv.only_torch():
        assert not fftconv.runs_compiled(u, kernel)
        without = long_conv(u, kernel)
    assert fftconv.runs_compiled(u, kernel)
    torch.testing.assert_close(without, long_conv(u, kernel))


@pytest.mark.parametrize("L", [4, 8, 256, 4096])
def test_real_transform_of_the_loops_equals_torch(L):
    if reason := fftconv_cpp.unavailable_reason():
        pytest.skip(reason)
    torch.manual_seed(0)
    spectrum, grad = torch.randn(2, 9, L // 2 + 1, 2, requires_grad=True), torch.randn(2, 9, L)
    assert fftconv_cpp.is_fast(L, torch.float32)
    assert not fftconv_cpp.is_fast(L - 1, torch.float32)
    expected = torch.fft.irfft(torch.view_as_complex(spectrum.double()), n=L)
    (expected_gradient,) = torch.autograd.grad(expected, spectrum, grad.double())
    for found, exact in (
        (fftconv_cpp.irfft(spectrum.detach(), L), expected),
        (fftconv_cpp.irfft_gradient(grad), expected_gradient),
    ):
        assert (found - exact).norm() <= 5e-7 * exact.norm()
