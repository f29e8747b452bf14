"""Every kernel backend against the reference, in values and gradients."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.kernel_cases import errors, system, value_and_gradients
from lra.ops.hippo import nplr
from lra.ops.ssm_kernels import dispatch
from lra.ops.ssm_kernels.dispatch import diagonal_kernel, nplr_kernel, nplr_spectrum

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
on_devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])])
on_fast_backends = pytest.mark.parametrize("backend", ["compiled", "triton"])
on_all_backends = pytest.mark.parametrize("backend", ["reference", "compiled", "triton"])
both_discretizations = pytest.mark.parametrize("discretization", dispatch.DISCRETIZATIONS)

# H, N, K, R, L: one pole, odd lengths, one frequency, more poles and frequencies than in a block, ranks 0 and 2
SIZES = [(3, 1, 1, 1, 63), (4, 8, 2, 1, 64), (2, 3, 2, 1, 1), (3, 5, 2, 0, 100), (2, 6, 2, 2, 63), (16, 32, 2, 1, 1500)]


def skip_if_unavailable(backend, device, dtype=torch.float32, rank=1):
    if reason := dispatch.unavailable_reason(backend, device, dtype, rank):
        pytest.skip(reason)


def compare(function, H, N, K, R, backend, device):
    """Check that the error is at most twice that of the float32 reference, plus a few roundings.

    function  of dt, A, B, C and, for a spectrum, P (R is then given), and the backend
    """
    skip_if_unavailable(backend, device, rank=1 if R is None else R)
    count = 4 if R is None else 5
    rounded, exact = (system(H, N, K, 1 if R is None else R, dtype, device)[:count] for dtype in (None, torch.float64))
    truth = value_and_gradients(lambda *p: function(*p, backend="reference"), exact)
    budget = errors(value_and_gradients(lambda *p: function(*p, backend="reference"), rounded), truth)
    for name, error in errors(value_and_gradients(lambda *p: function(*p, backend=backend), rounded), truth).items():
        vanishing = truth[name].abs().max() < 1e-6 * truth["value"].abs().max()
        assert error <= 2 * budget[name] + 3e-6 or vanishing, f"{name}: {error:.1e}, reference {budget[name]:.1e}"


def compare_spectrum(H, N, K, R, L, backend, device):
    compare(lambda *p, backend: nplr_spectrum(*p, L, backend=backend), H, N, K, R, backend, device)


def compare_diagonal(H, N, K, L, discretization, backend, device):
    def function(*p, backend):
        return diagonal_kernel(*p, L, discretization=discretization, backend=backend)

    compare(function, H, N, K, None, backend, device)


@on_devices
@on_fast_backends
@pytest.mark.parametrize(("H", "N", "K", "R", "L"), SIZES)
def test_spectrum_equals_reference(H, N, K, R, L, backend, device):
    compare_spectrum(H, N, K, R, L, backend, device)


@on_devices
@on_fast_backends
@both_discretizations
@pytest.mark.parametrize(("H", "N", "K", "L"), [(3, 1, 1, 63), (4, 8, 2, 64), (2, 3, 2, 1), (16, 32, 3, 1500)])
def test_diagonal_kernel_equals_reference(H, N, K, L, discretization, backend, device):
    compare_diagonal(H, N, K, L, discretization, backend, device)


def few_poles(backend: str, device: str) -> tuple[int, int]:
    """H and N for the length of Path-X: the Triton interpreter takes a second for each pole."""
    return (1, 1) if (backend, device) == ("triton", "cpu") else (16, 8)


@on_devices
@on_fast_backends
def test_spectrum_at_path_x_length(backend, device):
    H, N = few_poles(backend, device)
    compare_spectrum(H, N, 2, 1, 16384, backend, device)


@on_devices
@on_fast_backends
@both_discretizations
def test_diagonal_kernel_at_path_x_length(discretization, backend, device):
    H, N = few_poles(backend, device)
    compare_diagonal(H, N, 2, 16384, discretization, backend, device)


@pytest.mark.gpu
@needs_cuda
def test_spectrum_at_path_x_size():
    compare_spectrum(256, 32, 2, 1, 16384, "triton", "cuda")


# H, N, L: odd length, one pole, with a Nyquist frequency, length of Path-X. With one pole and at that length, gradients
# of single steps almost cancel, and only many of them show a backend's error
KEOPS_SIZES = [(4, 8, 63), (16, 1, 63), (4, 8, 64), (16, 8, 16384)]


@pytest.mark.slow
@on_devices
@pytest.mark.parametrize("R", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_keops_spectrum_equals_reference(R, device):
    """Slow, because KeOps compiles a module for each gradient and number of sums; all sizes share them."""
    for H, N, L in KEOPS_SIZES:
        compare_spectrum(H, N, 2, R, L, "keops", device)


@pytest.mark.nightly
@on_devices
def test_keops_diagonal_kernel_equals_reference(device):
    for H, N, L in KEOPS_SIZES:
        compare_diagonal(H, N, 2, L, "zoh", "keops", device)


@on_devices
@pytest.mark.parametrize(
    "backend", ["reference", "compiled", "triton", pytest.param("keops", marks=pytest.mark.nightly)]
)
@pytest.mark.parametrize("measure", ["legt", "fout"])
def test_gradients_near_imaginary_poles(measure, backend, device):
    """Poles 1e-4 from the axis: one pole dominates every sum and cancels, so float32 alone leaves only rounding."""
    H, N, L = (4, 16, 256) if (backend, device) == ("triton", "cpu") else (8, 64, 4096)
    A, P, B, _ = nplr(measure, N)
    skip_if_unavailable(backend, device, rank=len(P))
    torch.manual_seed(0)
    A = torch.complex(torch.full_like(A.real, -1e-4), A.imag).repeat(H, 1)
    C = torch.randn(2, H, N // 2, dtype=torch.complex64)
    rounded = [torch.logspace(-4, -1, H), A, B.repeat(H, 1), C, P[:, None].repeat(1, H, 1)]
    rounded = [x.to(device, torch.complex64 if x.is_complex() else torch.float32) for x in rounded]
    exact = [x.to(torch.promote_types(x.dtype, torch.float64)) for x in rounded]
    for function in (nplr_spectrum, lambda *p, **options: nplr_kernel(*trained(*p[:5]), *p[5:], **options)):
        truth = value_and_gradients(lambda *p, f=function: f(*p, L, backend="reference"), exact)
        found = value_and_gradients(lambda *p, f=function: f(*p, L, backend=backend, precise=True), rounded)
        for name, error in errors(found, truth).items():
            assert error < 1e-4, f"{name}: {error:.1e}"


def trained(dt, A, B, C, P):
    """S4's parameters for this system."""
    return dt.log(), (-A.real).log(), A.imag, *(torch.view_as_real(x.resolve_conj()) for x in (B, C, P))


@on_devices
@on_all_backends
@pytest.mark.parametrize(
    ("S", "K", "R", "L"), [(2, 2, 1, 64), (1, 1, 1, 63), (2, 3, 1, 8), (1, 2, 0, 50), (2, 1, 1, 1)]
)
def test_kernel_is_irfft_of_spectrum(S, K, R, L, backend, device):
    """For the same backend, whatever its error, up to a few roundings."""
    skip_if_unavailable(backend, device, rank=R)
    dt, A, B, C, P = system(2, 2, K, R, device=device)
    parameters = [x.detach().requires_grad_() for x in trained(dt, A[:S], B[:S], C, P[:, :S])]
    kernel = nplr_kernel(*parameters, L, backend=backend)
    expected = torch.fft.irfft(nplr_spectrum(*dispatch.system_from_parameters(*parameters), L, backend=backend), n=L)
    weight = torch.randn(K, 2, L, device=device)
    results = ((y, *torch.autograd.grad(y, parameters, weight)) for y in (kernel, expected))
    for name, x, y in zip(["kernel", "dt", "decay", "imag", "B", "C", "P"], *results, strict=True):
        assert (x - y).norm() <= 1e-5 * y.norm(), name


def test_compiled_float64_equals_reference():
    parameters = system(4, 8, 2, 1, torch.float64)
    expected, found = (
        value_and_gradients(lambda *p, name=name: nplr_spectrum(*p, 64, backend=name), parameters)
        for name in ("reference", "compiled")
    )
    for name, x in found.items():
        torch.testing.assert_close(x, expected[name])


@on_devices
@on_fast_backends
@pytest.mark.parametrize("view", ["conjugate", "strided"])
def test_views_are_resolved(view, backend, device):
    """PyTorch conjugates lazily: memory still holds the original numbers."""

    def function(*p, backend):
        views = (x.conj() if view == "conjugate" else torch.stack([x, x], -1)[..., 0] for x in p)
        return nplr_spectrum(*views, 64, backend=backend)

    compare(function, 4, 8, 2, 1, backend, device)


@on_devices
@on_fast_backends
def test_shared_copies_equal_reference(backend, device):
    """Two copies of A, B and P for six features."""

    def function(dt, A, B, C, P, backend):
        return nplr_spectrum(dt, A[:2], B[:2], C, P[:, :2], 100, backend=backend)

    compare(function, 6, 5, 2, 1, backend, device)


@on_devices
@on_all_backends
def test_spectrum_is_finite_at_nyquist_frequency(backend, device):
    """At w = -1 the resolvent of (1 - w) - dt/2 (1 + w) A is 1/2 for any A, and the value is dt/2 C B."""
    dtype = torch.float32 if backend == "triton" else torch.float64
    skip_if_unavailable(backend, device, dtype)
    dt, A, B, C, P = system(3, 4, 2, 1, dtype, device)
    spectrum = nplr_spectrum(dt, A, B, C, P, 64, backend=backend)
    expected = dt[:, None] / 2 * (C * B).sum(-1, keepdim=True).real * 2
    torch.testing.assert_close(spectrum[..., -1:], expected.to(spectrum.dtype), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_bilinear_pole_at_zero(backend):
    """A real pole with dt A = -2 becomes Ab = 0: the kernel lasts one position."""
    dt = torch.tensor([0.5])
    A, B, C = (torch.full(shape, x, dtype=torch.complex64) for shape, x in (((1, 1), -4), ((1, 1), 1), ((1, 1, 1), 1)))
    A.requires_grad_()
    kernel = diagonal_kernel(dt, A, B, C, 5, discretization="bilinear", backend=backend)
    torch.testing.assert_close(kernel, torch.tensor([[[0.5, 0, 0, 0, 0]]]))
    (gradient,) = torch.autograd.grad(kernel[..., :2].sum(), A)
    # of 2 Bb (1 + Ab), Bb = dt / (1 - dt A / 2), Ab = (1 + dt A / 2) / (1 - dt A / 2)
    torch.testing.assert_close(gradient, torch.tensor([[0.125 + 0j]]))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_triton_kernels_when_interpreted():
    """Run the tests above, except the largest, in a child process, because Triton reads the variable on import."""
    child = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-k", "triton and cpu and not interpreted and not 1500"],
        env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stdout[-3000:] + child.stderr[-1000:]
    assert " passed" in child.stdout


class CountExponentials(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.count += out.numel() if function is torch.ops.aten.exp.default else 0
        return out


@pytest.mark.parametrize("L", [64, 4096, 4097])
def test_powers_take_sqrt_of_length_exponentials(L):
    with CountExponentials() as exponentials:
        diagonal_kernel(*system(2, 3, 1, 1)[:4], L, backend="compiled")
    assert exponentials.count <= 2 * 3 * 2.6 * L**0.5


def test_second_derivative_is_refused():
    parameters = [x.requires_grad_() for x in system(2, 2, 1, 1)]
    y = nplr_spectrum(*parameters, 8, backend="compiled")
    (gradient,) = torch.autograd.grad(torch.view_as_real(y).square().sum(), parameters[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="nplr_spectrum can be differentiated only once"):
        gradient.sum().backward()


def test_compiled_gradients_do_not_depend_on_threads():
    parameters = system(6, 8, 2, 1)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(value_and_gradients(lambda *p: nplr_spectrum(*p, 4096, backend="compiled"), parameters))
    torch.set_num_threads(threads)
    for name, x in results[0].items():
        assert torch.equal(x, results[1][name])
