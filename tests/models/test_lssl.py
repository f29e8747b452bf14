"""LSSL against the dense recurrence, feature by feature."""

import pytest
import torch
import torch.nn.functional as F

from helpers.comparison import assert_same, by_row, ragged
from lra.ops.hippo import bilinear, ssm_kernel, ssm_recurrence
from models.lssl import LSSL, krylov
from models.s4 import S4


def build(H=5, **options):
    torch.manual_seed(0)
    return LSSL(H, 24, **{"d_state": 4, "dt_min": 0.05, "dt_max": 0.5} | options).double()


@pytest.mark.parametrize("init", ["legs", "legt", "gaussian"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_the_dense_recurrence(bidirectional, init):
    model = build(bidirectional=bidirectional, init=init)

    def naive(row):
        features = []
        for h, u in enumerate(row.T):
            A, B = bilinear(model.A, model.B, model.log_dt[h].exp())
            y = ssm_recurrence(A, B, model.C[0, h], model.D[h], u)
            if bidirectional:
                # from the right, starting one position away
                back = ssm_recurrence(A, B, model.C[1, h], 0.0, u.flip(0)).flip(0)
                y = y + torch.cat([back[1:], back.new_zeros(1)])
            features.append(y)
        value, gate = model.out(F.gelu(torch.stack(features, -1))).chunk(2, -1)
        return value * torch.sigmoid(gate)

    x, mask = ragged(5, 11, 7, 1)
    assert_same(model(x, mask)[mask], by_row(naive, x, mask), [x, *model.parameters()])


@pytest.mark.parametrize("L", [1, 2, 3, 16, 63])
def test_krylov_gives_the_powers(L):
    torch.manual_seed(0)
    A, B = torch.randn(2, 4, 4, dtype=torch.float64) / 4, torch.randn(2, 4, dtype=torch.float64)
    C = torch.randn(4, dtype=torch.float64)
    K = torch.einsum("n,hnl->hl", C, krylov(A, B, L))
    for h in range(2):
        torch.testing.assert_close(K[h], ssm_kernel(A[h], B[h], C, L), rtol=1e-10, atol=1e-12)


def test_float32_kernel_is_accurate_over_1024_positions():
    torch.manual_seed(0)
    model = LSSL(4, 1024, d_state=64)
    single, exact = model.kernel(1024), model.double().kernel(1024)
    assert (single - exact).abs().max() / exact.abs().max() < 1e-4


def test_kernels_start_as_large_as_those_of_s4():
    torch.manual_seed(0)
    dense, s4 = (kind(256, 64, d_state=64, bidirectional=False).kernel(64).std() for kind in (LSSL, S4))
    assert dense.item() == pytest.approx(s4.item(), rel=0.3)


def test_fixed_system_has_no_gradients_and_no_own_rates():
    model = build(learn=False)
    assert {name for name, _ in model.named_parameters()} == {"C", "D", "out.weight", "out.bias"}
    assert model.optim == {}
    assert {"A", "B", "log_dt"} <= set(model.state_dict())


def test_unknown_init_is_named():
    with pytest.raises(ValueError, match="'lags'"):
        build(init="lags")
