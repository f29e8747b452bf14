"""The initialisations of the ablation (S4 paper, section 4.4): each starts as the dense system it is named after."""

import pytest
import torch

from lra.ops.hippo import MEASURES, bilinear, nplr, ssm_kernel
from models.lssl import LSSL
from models.s4 import S4
from models.s4d import S4D


@pytest.mark.parametrize("N", [1, 2, 5, 8])
@pytest.mark.parametrize("init", MEASURES)
def test_s4_starts_as_the_dense_recurrence_of_its_measure(init, N):
    torch.manual_seed(0)
    form = nplr(init, N)
    A, B = form.dense()
    torch.manual_seed(0)
    model = S4(3, 20, d_state=N, init=init, bidirectional=False, dt_min=0.05, dt_max=0.2).double()
    K, C = model.kernel(20)[0], model.true_C()[0]
    # poles on the imaginary axis are kept a little to its left
    tolerance = 1e-3 if init in ("legt", "fout") else 1e-6
    for h in range(3):
        row = 2 * (C[h] @ form.V.mH).real
        exact = ssm_kernel(*bilinear(A, B, model.log_dt[h].exp().item()), row, 20)
        torch.testing.assert_close(K[h], exact, rtol=0, atol=tolerance * float(exact.abs().max()))


@pytest.mark.parametrize("init", MEASURES)
def test_s4_learns_from_every_measure(init):
    torch.manual_seed(0)
    model = S4(3, 20, d_state=8, init=init, backend="reference")
    x, mask = torch.randn(2, 20, 3), torch.ones(2, 20, dtype=torch.bool)
    model(x, mask).square().mean().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name


def test_the_random_ones_differ_with_the_seed():
    for init in ("random", "diagonal"):
        torch.manual_seed(0)
        one = S4(3, 20, d_state=8, init=init)
        two = S4(3, 20, d_state=8, init=init)
        assert not torch.equal(one.A_imag, two.A_imag)


def test_a_full_rank_measure_has_no_diagonal_model():
    with pytest.raises(ValueError, match=r"'legt'.*lin, inv, legs, real.*s4"):
        S4D(3, 20, init="legt")


def test_a_dense_gaussian_is_for_lssl_alone():
    with pytest.raises(ValueError, match=r"'gaussian'.*legs"):
        S4(3, 20, init="gaussian")
    assert LSSL(3, 20, init="gaussian").kernel(20).isfinite().all()
