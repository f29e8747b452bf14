"""HiPPO matrices against closed forms, their normal-plus-low-rank form, and discretisation."""

import math

import pytest
import torch

from lra.ops import hippo
from lra.ops.hippo import MEASURES, basis, bilinear, nplr, rank_correction, transition, zoh

RANKS = {"legs": 1, "legt": 2, "fout": 1, "random": 1, "diagonal": 0}
every_measure = pytest.mark.parametrize("measure", MEASURES)
many_sizes = pytest.mark.parametrize("N", [1, 2, 3, 4, 5, 8, 13, 64])


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def close(a, b, tol=1e-12):
    scale = max(1.0, float(torch.as_tensor(b).abs().max()))
    torch.testing.assert_close(a, b, rtol=0, atol=tol * scale)


def test_legs_matrix_of_the_paper():
    A, B = transition("legs", 3)
    expected = [[-1, 0, 0], [-math.sqrt(3), -2, 0], [-math.sqrt(5), -math.sqrt(15), -3]]
    close(A, torch.tensor(expected, dtype=torch.float64))
    close(B, torch.tensor([1, math.sqrt(3), math.sqrt(5)], dtype=torch.float64))


@many_sizes
@every_measure
def test_rank_correction_gives_normal_matrix(measure, N):
    A, _ = transition(measure, N, seeded())
    P = rank_correction(measure, N, seeded())
    normal = A + P.mT @ P
    close(normal @ normal.mT, normal.mT @ normal)
    real = 0.0 if measure in ("legt", "fout") else -0.5
    close(normal + normal.mT, 2 * real * torch.eye(N, dtype=torch.float64))
    close(torch.linalg.eigvals(normal).real, torch.full((N,), real, dtype=torch.float64), 1e-11)


@many_sizes
@every_measure
def test_nplr_recovers_dense_matrices(measure, N):
    A, B = transition(measure, N, seeded())
    form = nplr(measure, N, seeded())
    for found, expected in zip(form.dense(), (A, B), strict=True):
        close(found, expected)
    assert form.A.shape == form.B.shape == ((N + 1) // 2,)
    assert form.V.shape == (N, (N + 1) // 2)
    assert form.P.shape == (RANKS[measure], (N + 1) // 2)
    # the conjugate pairs span the whole state
    close(2 * (form.V @ form.V.mH).real, torch.eye(N, dtype=torch.float64))


@every_measure
def test_nplr_conventions(measure):
    """Eigenvalues have imaginary part >= 0 in ascending order; B is real and >= 0."""
    form = nplr(measure, 16, seeded())
    assert (form.A.imag >= 0).all()
    assert (form.A.imag.diff() >= 0).all()
    close(form.B.imag, torch.zeros_like(form.B.imag))
    assert (form.B.real > -1e-12).all()


def test_known_eigenvalues():
    assert (nplr("legs", 64).A.real == -0.5).all()
    # the skew part of LegS at N = 2 is sqrt(3)/2 [[0, 1], [-1, 0]]
    close(nplr("legs", 2).A, torch.tensor([complex(-0.5, math.sqrt(3) / 2)], dtype=torch.complex128))
    # Gu et al. 2022 (arXiv:2206.11893), conjecture 5: Im(A_0) / N^2 -> 1/pi
    assert nplr("legs", 256).A.imag.max().item() / 256**2 * math.pi == pytest.approx(1, abs=0.02)
    close(nplr("fout", 8).A, 1j * math.pi * torch.arange(4, dtype=torch.float64))


def test_diagonal_measure_rotates_pairs_of_states():
    A, _ = transition("diagonal", 64, seeded())
    pairs = torch.block_diag(*(A[i : i + 2, i : i + 2] for i in range(0, 64, 2)))
    assert torch.equal(A, pairs)
    top = nplr("diagonal", 64, seeded()).A.imag.max()
    assert 0.9 < top / (math.pi * 64 / 2) < 1


def test_single_state_is_leaky_integrator():
    form = nplr("legs", 1)
    assert form.A.imag.item() == 0
    A, B = form.dense()
    assert A.item() == pytest.approx(-1)
    assert B.item() == pytest.approx(1)
    assert basis("legs", 1, torch.tensor([0.0, 3.0], dtype=torch.float64))[0].tolist() == [[1, 1]]


@pytest.mark.parametrize("measure", ["legs", "legt", "fout"])
def test_basis_is_orthonormal(measure):
    # substitute v = exp(-s) for legs, so that the weight is uniform on (0, 1)
    v = (torch.arange(40000, dtype=torch.float64) + 0.5) / 40000
    age, width = (-v.log(), 1 / v) if measure == "legs" else (2 * v, 2)
    p, weight = basis(measure, 6, age)
    gram = (p * weight * width) @ p.mT / len(v)
    expected = torch.eye(6, dtype=torch.float64)
    if measure == "fout":
        expected[1, 1] = 0  # the sine of frequency zero
    torch.testing.assert_close(gram, expected, rtol=0, atol=1e-6)
    if measure != "legs":
        assert basis(measure, 6, torch.tensor([-0.1, 2.1], dtype=torch.float64))[1].tolist() == [0, 0]


def test_legs_impulse_response_is_the_weighted_basis():
    # e^{tA} B = weight(t) p(t): LegS holds the exponentially warped Legendre coefficients exactly
    A, B = transition("legs", 8)
    for t in [0.0, 0.1, 1.0, 3.0]:
        p, weight = basis("legs", 8, torch.tensor([t], dtype=torch.float64))
        close(torch.linalg.matrix_exp(t * A) @ B, p[:, 0] * weight[0], 1e-11)


def wave(t):
    """Smooth and periodic over the window of two, without a jump for the Fourier basis."""
    return torch.sin(math.pi * t) + 0.5 * torch.cos(2 * math.pi * t)


def fading(t):
    """Smooth as a function of exp(-age) at time zero, the variable of the LegS polynomials."""
    return torch.sin(3 * torch.exp(t))


@pytest.mark.parametrize(("measure", "u", "tol"), [("legs", fading, 1e-3), ("legt", wave, 1e-3), ("fout", wave, 2e-2)])
def test_state_reconstructs_the_history(measure, u, tol):
    dt, N = 1e-3, 32
    t = torch.arange(-12, 0, dt, dtype=torch.float64)
    Ab, Bb = zoh(*transition(measure, N), dt)
    x = torch.zeros(N, dtype=torch.float64)
    for uk in u(t + dt / 2):
        x = Ab @ x + Bb * uk
    age = torch.linspace(0.05, 1.95, 100, dtype=torch.float64)
    p, _ = basis(measure, N, age)
    assert (x @ p - u(-age)).abs().max() < tol


def test_scaled_legs_reconstructs_all_history():
    # the state of x' = (A x + B u) / t is the Legendre coefficients of u on [0, t] (HiPPO, theorem 2)
    A, B = transition("legs", 24)
    L = 4000
    u = wave(2 * (torch.arange(L, dtype=torch.float64) + 0.5) / L)
    x = torch.zeros(24, dtype=torch.float64)
    for k in range(L):
        Ab, Bb = bilinear(A, B, 1.0 / (k + 1))
        x = Ab @ x + Bb * u[k]
    share = torch.linspace(0.02, 0.98, 50, dtype=torch.float64)
    p, _ = basis("legs", 24, -share.log())
    assert (x @ p - wave(2 * share)).abs().max() < 5e-3


@pytest.mark.parametrize("rule", [bilinear, zoh])
def test_discretisation_converges(rule):
    A, B = transition("legs", 4)
    steps = 2000
    Ab, Bb = rule(A, B, 1.0 / steps)
    x = torch.zeros(4, dtype=torch.float64)
    for _ in range(steps):
        x = Ab @ x + Bb
    exact = torch.linalg.solve(A, torch.linalg.matrix_exp(A) @ B - B)
    close(x, exact, 1e-6)


def test_zoh_of_scalar_and_singular_matrix():
    Ab, Bb = zoh(torch.tensor([[-2.0]], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64), 0.1)
    assert Ab.item() == pytest.approx(math.exp(-0.2))
    assert Bb.item() == pytest.approx(3 * (1 - math.exp(-0.2)) / 2)
    Ab, Bb = zoh(torch.zeros(2, 2, dtype=torch.float64), torch.ones(2, dtype=torch.float64), 0.1)
    close(Ab, torch.eye(2, dtype=torch.float64))
    close(Bb, torch.full((2,), 0.1, dtype=torch.float64))


@pytest.mark.parametrize("rule", [bilinear, zoh])
def test_discretisation_with_many_steps(rule):
    A, B = transition("legs", 4)
    dt = torch.tensor([0.01, 0.1], dtype=torch.float64)
    Ab, Bb = rule(A, B, dt)
    for i, step in enumerate(dt):
        one_A, one_B = rule(A, B, float(step))
        close(Ab[i], one_A)
        close(Bb[i], one_B)


def test_recurrence_equals_convolution():
    torch.manual_seed(0)
    A, B = bilinear(*transition("legs", 6), 0.05)
    C, u = torch.randn(6, dtype=torch.float64), torch.randn(3, 20, dtype=torch.float64)
    K = hippo.ssm_kernel(A, B, C, 20)
    y = torch.stack([(K[: k + 1].flip(0) * u[:, : k + 1]).sum(-1) for k in range(20)], -1) + 0.3 * u
    close(hippo.ssm_recurrence(A, B, C, 0.3, u), y)


def test_random_measure_depends_on_the_seed():
    one, two = nplr("random", 8, seeded()), nplr("random", 8, seeded())
    assert torch.equal(one.A, two.A)
    assert not torch.equal(one.A, nplr("random", 8, torch.Generator().manual_seed(8)).A)


def test_gaussian_is_stable_and_not_nplr():
    A, B = transition("gaussian", 64, seeded())
    assert torch.linalg.eigvals(A).real.max() < 0
    assert B.abs().min() > 0
    for form in (nplr, rank_correction):
        with pytest.raises(ValueError, match="gaussian"):
            form("gaussian", 8)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"'lagt'.*legs"):
        transition("lagt", 4)
    with pytest.raises(ValueError, match=r"'random'.*legs, legt, fout"):
        basis("random", 4, torch.zeros(1, dtype=torch.float64))
    with pytest.raises(ValueError, match="N=0"):
        nplr("legs", 0)
