"""The reference kernels against the recurrence, and the formulas that the fast backends use."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from helpers.kernel_cases import system, value_and_gradients
from lra.ops.hippo import bilinear, nplr, ssm_kernel, transition
from lra.ops.ssm_kernels.dispatch import nplr_spectrum
from lra.ops.ssm_kernels.reference import woodbury
from lra.ops.ssm_kernels.resolvent import nodes, pole_coefficients


@pytest.mark.parametrize("N", [1, 2, 5, 16])
@pytest.mark.parametrize("L", [1, 2, 7, 64])
def test_spectrum_is_transform_of_recurrence(N, L):
    """With C (I - Ab^L) as input, the spectrum of C Ab^l Bb, for the dense HiPPO-LegS matrices."""
    dt = torch.tensor([0.01, 0.3], dtype=torch.float64)
    A, P, B, V = nplr("legs", N)
    Ab, Bb = bilinear(*(x.expand(2, *x.shape) for x in transition("legs", N)), dt)
    C = torch.randn(2, N, dtype=torch.float64)
    corrected = C - torch.einsum("hn,hnm->hm", C, torch.linalg.matrix_power(Ab, L))
    # y = C x = 2 Re(C V z): C in the basis of eigenvectors
    C_eigen = corrected.to(V.dtype) @ V
    spectrum = nplr_spectrum(dt, A.expand(2, -1), B.expand(2, -1), C_eigen[None], P[:, None].expand(-1, 2, -1), L)
    kernel = torch.fft.irfft(spectrum[0], n=L)
    for h in range(2):
        torch.testing.assert_close(kernel[h], ssm_kernel(Ab[h], Bb[h], C[h], L), rtol=1e-9, atol=1e-11)


def test_conjugate_poles_share_one_real_fraction():
    """(i s p + c q) / D equals v / (i s - c a) + conj v / (i s - c conj a), summed over the poles."""
    dt, A, B, C, P = system(2, 5, 1, 1, torch.float64)
    alpha, beta, p, q = (x[..., None] for x in pole_coefficients(dt, A, B, C, P))
    s, c = nodes(31, torch.float64, torch.device("cpu"))
    sums = ((1j * s * p + c * q) / (c**2 * beta - s**2 - 2j * s * c * alpha)).sum(-2)
    half = dt[:, None] / 2
    a = (half * A)[..., None]
    # rows C and P* times columns B and P; each column has a factor dt / 2
    residues = (C[0] * half * B, C[0] * half**0.5 * P[0], P[0].conj() * half**1.5 * B, P[0].abs() ** 2 * half)
    for row, v in zip(sums, (v[..., None] for v in residues), strict=True):
        expected = (v / (1j * s - c * a) + v.conj() / (1j * s - c * a.conj())).sum(-2)
        torch.testing.assert_close(row, expected.to(row.dtype), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("R", [0, 1, 2])
def test_woodbury_is_inverse_of_diagonal_plus_low_rank(R):
    torch.manual_seed(0)
    K, H, N, F = 2, 3, 5, 4
    random = lambda *shape: torch.randn(*shape, dtype=torch.complex128)  # noqa: E731
    d, g, B, C, P = random(H, F, N), random(H, F), random(H, N), random(K, H, N), random(R, H, N)
    sums = (
        torch.einsum("khn,hfn,hn->khf", C, 1 / d, B),
        torch.einsum("khn,hfn,rhn->krhf", C, 1 / d, P),
        torch.einsum("rhn,hfn,hn->rhf", P.conj(), 1 / d, B),
        torch.einsum("rhn,hfn,shn->rshf", P.conj(), 1 / d, P),
    )
    dense = d.diag_embed() + g[..., None, None] * torch.einsum("rhm,rhn->hmn", P, P.conj())[:, None]
    expected = torch.einsum("khm,hfmn,hn->khf", C, torch.linalg.inv(dense), B)
    torch.testing.assert_close(woodbury(*sums, g), expected)


def test_blocks_of_features_change_nothing(monkeypatch):
    module, blocks = "lra.ops.ssm_kernels.reference", []
    monkeypatch.setattr(f"{module}.checkpoint", lambda *a, **k: blocks.append(1) or checkpoint(*a, **k))
    parameters = system(5, 4, 2, 1, torch.float64)
    expected = value_and_gradients(lambda *p: nplr_spectrum(*p, 32, backend="reference"), parameters)
    assert len(blocks) == 0
    monkeypatch.setattr(f"{module}.BLOCK", 2 * 4 * 32 * 2)
    for name, x in value_and_gradients(lambda *p: nplr_spectrum(*p, 32, backend="reference"), parameters).items():
        torch.testing.assert_close(x, expected[name])
    assert len(blocks) == 3
