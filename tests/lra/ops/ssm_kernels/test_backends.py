"""Every backend against the definition, in value and in every gradient."""

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

CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)
DEVICES = ["cpu", CUDA]
FAST = ["compiled", "triton"]

# H, N, K, R, L: a lone pole, odd lengths, one frequency, more poles and frequencies than a block holds, rank 0 and 2
SIZES = [(3, 1, 1, 1, 63), (4, 8, 2, 1, 64), (2, 3, 2, 1, 1), (3, 5, 2, 0, 100), (2, 6, 2, 2, 63), (16, 32, 2, 1, 1500)]


def compare(kind, function, H, N, K, R, backend, device):
    """float32: at most twice the error of the definition in float32, or a few roundings."""
    if reason := dispatch.unavailable_reason(backend, device, torch.float32, R):
        pytest.skip(reason)
    count = 5 if kind == "nplr_spectrum" else 4
    rounded, exact = system(H, N, K, R, device=device)[:count], system(H, N, K, R, torch.float64, device)[:count]
    truth = value_and_gradients(lambda *p: function(*p, name="reference"), exact)
    budget = errors(value_and_gradients(lambda *p: function(*p, name="reference"), rounded), truth)
    for name, error in errors(value_and_gradients(lambda *p: function(*p, name=backend), rounded), truth).items():
        vanishing = truth[name].abs().max() < 1e-6 * truth["value"].abs().max()
        assert error <= 2 * budget[name] + 3e-6 or vanishing, f"{name}: {error:.1e}, definition {budget[name]:.1e}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("H", "N", "K", "R", "L"), SIZES)
def test_spectrum_and_its_gradients_match_the_definition(H, N, K, R, L, backend, device):
    compare("nplr_spectrum", lambda *p, name: nplr_spectrum(*p, L, backend=name), H, N, K, R, backend, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("discretization", dispatch.DISCRETIZATIONS)
@pytest.mark.parametrize(("H", "N", "K", "L"), [(3, 1, 1, 63), (4, 8, 2, 64), (2, 3, 2, 1), (16, 32, 3, 1500)])
def test_diagonal_kernel_and_its_gradients_match_the_definition(H, N, K, L, discretization, backend, device):
    def function(*p, name):
        return diagonal_kernel(*p, L, discretization=discretization, backend=name)

    compare("diagonal_kernel", function, H, N, K, 1, backend, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", ["reference", *FAST, pytest.param("keops", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("measure", ["legt", "fout"])
def test_gradients_are_right_next_to_poles_on_the_imaginary_axis(measure, backend, device):
    """But for 1e-4. There one pole outweighs all others and cancels: in float32 only rounding is left."""
    H, N, L = (4, 16, 256) if (backend, device) == ("triton", "cpu") else (8, 64, 4096)
    A, P, B, _ = nplr(measure, N)
    if reason := dispatch.unavailable_reason(backend, device, torch.float32, len(P)):
        pytest.skip(reason)
    torch.manual_seed(0)
    A = torch.complex(torch.full_like(A.real, -1e-4), A.imag).repeat(H, 1)
    C = torch.randn(2, H, N // 2, dtype=torch.complex64)
    dt = torch.logspace(-4, -1, H)
    rounded = [dt, *(x.to(torch.complex64) for x in (A, B.repeat(H, 1), C, P[:, None].repeat(1, H, 1)))]
    rounded = [x.to(device) for x in rounded]
    exact = [x.to(torch.promote_types(x.dtype, torch.float64)) for x in rounded]
    truth = value_and_gradients(lambda *p: nplr_spectrum(*p, L, backend="reference"), exact)
    found = value_and_gradients(lambda *p: nplr_spectrum(*p, L, backend=backend, precise=True), rounded)
    for name, error in errors(found, truth).items():
        assert error < 1e-4, f"{name}: {error:.1e}"
    truth = value_and_gradients(lambda *p: nplr_kernel(*trained(*p), L, backend="reference"), exact)
    found = value_and_gradients(lambda *p: nplr_kernel(*trained(*p), L, backend=backend, precise=True), rounded)
    for name, error in errors(found, truth).items():
        assert error < 1e-4, f"taps, {name}: {error:.1e}"


def test_the_loops_in_float64_equal_the_definition():
    parameters = system(4, 8, 2, 1, torch.float64)
    expected, got = (
        value_and_gradients(lambda *p, name=name: nplr_spectrum(*p, 64, backend=name), parameters)
        for name in ("reference", "compiled")
    )
    for name, x in got.items():
        torch.testing.assert_close(x, expected[name])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("view", ["conjugate", "with gaps"])
def test_views_are_read_as_the_numbers_they_stand_for(view, backend, device):
    """A tensor is not conjugated in memory."""

    def function(*p, name):
        views = (x.conj() if view == "conjugate" else torch.stack([x, x], -1)[..., 0] for x in p)
        return nplr_spectrum(*views, 64, backend=name)

    compare("nplr_spectrum", function, 4, 8, 2, 1, backend, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", FAST)
def test_tied_copies_match_the_definition(backend, device):
    """Two copies of A, B and P for six features."""

    def function(dt, A, B, C, P, name):
        return nplr_spectrum(dt, A[:2], B[:2], C, P[:, :2], 100, backend=name)

    compare("nplr_spectrum", function, 6, 5, 2, 1, backend, device)


def trained(dt, A, B, C, P):
    """The parameters of S4 that stand for the system."""
    return dt.log(), (-A.real).log(), A.imag, *(torch.view_as_real(x.resolve_conj()) for x in (B, C, P))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize(
    ("S", "K", "R", "L"), [(2, 2, 1, 64), (1, 1, 1, 63), (2, 3, 1, 8), (1, 2, 0, 50), (2, 1, 1, 1)]
)
def test_kernel_of_trained_parameters_is_the_inverse_transform_of_the_spectrum(S, K, R, L, backend, device):
    """To a few roundings by the same backend, whatever its error is."""
    if reason := dispatch.unavailable_reason(backend, device, torch.float32, R):
        pytest.skip(reason)
    dt, A, B, C, P = system(2, 2, K, R, device=device)
    parameters = [x.detach().requires_grad_() for x in trained(dt, A[:S], B[:S], C, P[:, :S])]
    taps = nplr_kernel(*parameters, L, backend=backend)
    expected = torch.fft.irfft(nplr_spectrum(*dispatch.system_from_parameters(*parameters), L, backend=backend), n=L)
    weight = torch.randn(K, 2, L, device=device)
    got, exact = ((y, *torch.autograd.grad(y, parameters, weight)) for y in (taps, expected))
    for name, x, y in zip(["taps", "dt", "decay", "imag", "B", "C", "P"], got, exact, strict=True):
        assert (x - y).norm() <= 1e-5 * y.norm(), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("backend", FAST)
def test_spectrum_matches_the_definition_at_the_size_of_path_x(backend):
    compare("nplr_spectrum", lambda *p, name: nplr_spectrum(*p, 16384, backend=name), 256, 32, 2, 1, backend, "cuda")


# H, N, L: odd, a lone pole, with a Nyquist point, as long as Path-X. Of a lone pole and there the gradients of single
# steps nearly cancel, and it takes many of them to tell a backend's error from luck
KEOPS_SIZES = [(4, 8, 63), (16, 1, 63), (4, 8, 64), (16, 8, 16384)]


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("R", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_keops_spectrum_and_its_gradients_match_the_definition(R, device):
    """Slow, for it compiles a module for each gradient and each number of sums; every size uses the same."""
    for H, N, L in KEOPS_SIZES:
        compare("nplr_spectrum", lambda *p, name, L=L: nplr_spectrum(*p, L, backend=name), H, N, 2, R, "keops", device)


@pytest.mark.nightly
@pytest.mark.parametrize("device", DEVICES)
def test_keops_diagonal_kernel_and_its_gradients_match_the_definition(device):
    for H, N, L in KEOPS_SIZES:
        call = lambda *p, name, L=L: diagonal_kernel(*p, L, backend=name)  # noqa: E731
        compare("diagonal_kernel", call, H, N, 2, 1, "keops", device)


def few(backend: str, device: str) -> tuple[int, int]:
    """H and N: an interpreted kernel takes a second for a pole as long as Path-X."""
    return (1, 1) if (backend, device) == ("triton", "cpu") else (16, 8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", FAST)
def test_spectrum_matches_the_definition_at_the_length_of_path_x(backend, device):
    H, N = few(backend, device)
    compare("nplr_spectrum", lambda *p, name: nplr_spectrum(*p, 16384, backend=name), H, N, 2, 1, backend, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("discretization", dispatch.DISCRETIZATIONS)
def test_diagonal_kernel_matches_the_definition_at_the_length_of_path_x(discretization, backend, device):
    def function(*p, name):
        return diagonal_kernel(*p, 16384, discretization=discretization, backend=name)

    H, N = few(backend, device)
    compare("diagonal_kernel", function, H, N, 2, 1, backend, device)


def test_triton_kernels_match_the_definition_when_interpreted():
    """The same tests as above, but for the largest, in a child process: Triton decides when it is imported."""
    child = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-k", "triton and cpu and not interpreted and not 1500"],
        env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stdout[-3000:] + child.stderr[-1000:]
    assert " passed" in child.stdout


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_spectrum_is_finite_and_right_at_the_nyquist_point(backend, device):
    """At w = -1 the resolvent of (1 - w) - dt/2 (1 + w) A is 1/2 whatever A is: the value is dt/2 C B."""
    dtype = torch.float32 if backend == "triton" else torch.float64
    if reason := dispatch.unavailable_reason(backend, device, dtype):
        pytest.skip(reason)
    dt, A, B, C, P = system(3, 4, 2, 1, dtype, device)
    spectrum = nplr_spectrum(dt, A, B, C, P, 64, backend=backend)
    expected = dt[:, None] / 2 * (C * B).sum(-1, keepdim=True).real * 2
    torch.testing.assert_close(spectrum[..., -1:], expected.to(spectrum.dtype), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_a_real_pole_that_the_bilinear_rule_maps_to_zero_lasts_one_position(backend):
    dt = torch.tensor([0.5])
    A, B, C = (torch.full(shape, x, dtype=torch.complex64) for shape, x in (((1, 1), -4), ((1, 1), 1), ((1, 1, 1), 1)))
    A.requires_grad_()
    kernel = diagonal_kernel(dt, A, B, C, 5, discretization="bilinear", backend=backend)
    torch.testing.assert_close(kernel, torch.tensor([[[0.5, 0, 0, 0, 0]]]))
    (gradient,) = torch.autograd.grad(kernel[..., :2].sum(), A)
    # of 2 Bb (1 + Ab), Bb = dt / (1 - dt A / 2), Ab = (1 + dt A / 2) / (1 - dt A / 2)
    torch.testing.assert_close(gradient, torch.tensor([[0.125 + 0j]]))


class Exponentials(TorchDispatchMode):
    """Counts them."""

    taken = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.taken += out.numel() if function is torch.ops.aten.exp.default else 0
        return out


@pytest.mark.parametrize("L", [64, 4096, 4097])
def test_powers_take_exponentials_as_the_root_of_the_length(L):
    parameters = system(2, 3, 1, 1)[:4]
    with Exponentials() as counted:
        diagonal_kernel(*parameters, L, backend="compiled")
    assert counted.taken <= 2 * 3 * 2.6 * L**0.5


def test_compiled_spectrum_says_that_it_has_no_second_derivative():
    parameters = [x.requires_grad_() for x in system(2, 2, 1, 1)]
    y = nplr_spectrum(*parameters, 8, backend="compiled")
    (gradient,) = torch.autograd.grad(torch.view_as_real(y).square().sum(), parameters[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_gradients_of_the_compiled_loops_do_not_depend_on_the_threads():
    parameters = system(6, 8, 2, 1)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(value_and_gradients(lambda *p: nplr_spectrum(*p, 4096, backend="compiled"), parameters))
    torch.set_num_threads(threads)
    for name, x in results[0].items():
        assert torch.equal(x, results[1][name])
