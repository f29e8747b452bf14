"""LSSL against the dense recurrence, feature by feature."""

import pytest
import torch
import torch.nn.functional as F

from helpers.recurrent_steps import stepped
from lra.ops.hippo import bilinear, ssm_kernel, ssm_recurrence
from models.lssl import LSSL, krylov
from models.s4 import S4


def layer(H=5, **kwargs):
    torch.manual_seed(0)
    return LSSL(H, 24, **{"d_state": 4, "dt_min": 0.05, "dt_max": 0.5} | kwargs).double()


def naive(model, x, mask):
    rows = []
    for row, real in zip(x, mask, strict=True):
        length = int(real.sum())
        features = []
        for h in range(row.shape[1]):
            A, B = bilinear(model.A, model.B, model.log_dt[h].exp())
            u = row[:length, h]
            y = ssm_recurrence(A, B, model.C[0, h], model.D[h], u)
            if model.bidirectional:
                # from the right, starting one position away
                back = ssm_recurrence(A, B, model.C[1, h], 0.0, u.flip(0)).flip(0)
                y = y + torch.cat([back[1:], back.new_zeros(1)])
            features.append(y)
        value, gate = model.out(F.gelu(torch.stack(features, -1))).chunk(2, -1)
        rows.append(torch.cat([value * torch.sigmoid(gate), torch.zeros_like(row[length:])]))
    return torch.stack(rows)


@pytest.mark.parametrize("init", ["legs", "legt", "gaussian"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layer_is_the_dense_recurrence_in_values_and_gradients(bidirectional, init, ragged, assert_same):
    model = layer(bidirectional=bidirectional, init=init)
    x, mask = ragged(5, 11, 7, 1)
    assert_same(model(x, mask), naive(model, x, mask), [x, *model.parameters()], mask)


@pytest.mark.parametrize("L", [1, 2, 3, 16, 63])
def test_doubling_gives_the_powers(L):
    torch.manual_seed(0)
    A, B = torch.randn(2, 4, 4, dtype=torch.float64) / 4, torch.randn(2, 4, dtype=torch.float64)
    C = torch.randn(4, dtype=torch.float64)
    K = torch.einsum("n,hnl->hl", C, krylov(A, B, L))
    for h in range(2):
        torch.testing.assert_close(K[h], ssm_kernel(A[h], B[h], C, L), rtol=1e-10, atol=1e-12)


def test_steps_equal_the_parallel_view(ragged):
    model = layer(bidirectional=False)
    x, mask = ragged(5, 20, 20)
    torch.testing.assert_close(stepped(model, x), model(x, mask), rtol=1e-9, atol=1e-11)


def test_step_says_what_is_missing():
    with pytest.raises(RuntimeError, match="setup_step"):
        layer(bidirectional=False).step(torch.zeros(1, 5).double(), torch.zeros(1, 5, 4).double())
    with pytest.raises(RuntimeError, match="bidirectional=False"):
        layer().setup_step()


def test_float32_kernel_is_near_the_exact_one_over_a_thousand_positions():
    torch.manual_seed(0)
    model = LSSL(4, 1024, d_state=64)
    single = model.kernel(1024)
    exact = model.double().kernel(1024)
    assert (single - exact).abs().max() / exact.abs().max() < 1e-4


def test_kernels_start_as_strong_as_those_of_s4():
    torch.manual_seed(0)
    dense, s4 = (kind(256, 64, d_state=64, bidirectional=False).kernel(64).std() for kind in (LSSL, S4))
    assert dense.item() == pytest.approx(s4.item(), rel=0.3)


def test_another_sampling_rate_keeps_the_continuous_system():
    model = layer(bidirectional=False, dt_min=0.002, dt_max=0.004)
    before = model.kernel(400)[..., 1::2]
    model.prepare(24, rate=0.5)
    # a kernel of steps twice as long, worth twice as much
    after = model.kernel(200) / 2
    assert (after - before).abs().max() / before.abs().max() < 2e-2


def test_fixed_system_has_no_gradient_and_no_special_rates():
    model = layer(learn=False)
    assert {name for name, _ in model.named_parameters()} == {"C", "D", "out.weight", "out.bias"}
    assert model.optim == {}
    assert {"A", "B", "log_dt"} <= set(model.state_dict())


def test_state_space_has_its_own_learning_rate_without_decay():
    model = layer()
    assert all(model.get_parameter(name) is not None for name in model.optim)
    assert all(group == {"lr": 0.001, "weight_decay": 0.0} for group in model.optim.values())
    assert "lr" not in layer(lr=None).optim["A"]


def test_unknown_init_is_named():
    with pytest.raises(ValueError, match="'lags'"):
        layer(init="lags")
