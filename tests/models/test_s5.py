"""S5 against a loop over positions, in its own coordinates and in those of the real HiPPO matrix it starts from."""

import pytest
import torch
import torch.nn.functional as F

from helpers.recurrent_steps import stepped
from lra.ops.hippo import nplr, rank_correction, transition, zoh
from models.s5 import OUTPUTS, S5


def layer(H=6, **kwargs):
    torch.manual_seed(0)
    return S5(H, 64, **{"d_state": 8, "n_blocks": 2, "dt_min": 0.1, "dt_max": 0.9} | kwargs).double()


def gated(model, y):
    g = F.gelu(y)
    if model.output == "gelu":
        return g
    gate = torch.sigmoid(g @ model.gate.weight.T + model.gate.bias)
    if model.output == "full_glu":
        return (g @ model.value.weight.T + model.value.bias) * gate
    return (y if model.output == "half_glu2" else g) * gate


def naive(model, x, mask):
    """One row and one position at a time, conjugate pairs written out."""
    A = model.A_real + 1j * model.A_imag
    A = torch.cat([A, A.conj()])
    dt = model.log_dt.exp().repeat(2)
    B = model.B[..., 0] + 1j * model.B[..., 1]
    B = torch.cat([B, B.conj()]) * ((torch.exp(A * dt) - 1) / A)[:, None]
    C = model.C[..., 0] + 1j * model.C[..., 1]
    C = torch.cat([C, C.conj()], -1)
    rows = []
    for row, real in zip(x, mask, strict=True):
        length = int(real.sum())
        y = [model.D * u for u in row[:length]]
        for k in range(len(C)):
            h = torch.zeros(len(A), dtype=A.dtype)
            for t in reversed(range(length)) if k else range(length):
                h = torch.exp(A * dt) * h + B @ row[t].to(A.dtype)
                y[t] = y[t] + (C[k] @ h).real
        rows.append(torch.cat([gated(model, torch.stack(y)), torch.zeros_like(row[length:])]))
    return torch.stack(rows)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layer_is_the_loop_in_values_and_gradients(bidirectional, output, ragged, assert_same):
    model = layer(bidirectional=bidirectional, output=output)
    x, mask = ragged(6, 11, 7, 1)
    assert_same(model(x, mask), naive(model, x, mask), [x, *model.parameters()], mask)


@pytest.mark.parametrize(("d_state", "n_blocks"), [(1, 1), (3, 1), (6, 2), (4, 4)])
def test_layer_starts_as_the_dense_hippo_system(d_state, n_blocks, ragged):
    # odd blocks hold a real eigenvalue: they too equal the dense matrix
    torch.manual_seed(0)
    model = layer(d_state=d_state, n_blocks=n_blocks, dt_min=0.3, dt_max=0.3, bidirectional=False, output="gelu")
    size = d_state // n_blocks
    A, _ = transition("legs", size)
    P = rank_correction("legs", size)
    V = nplr("legs", size).V
    A, V = torch.block_diag(*[A + P.T @ P] * n_blocks), torch.block_diag(*[V] * n_blocks)
    B = 2 * (V @ torch.view_as_complex(model.B)).real
    # the dense row that C = row V came from, where the row is real
    C = torch.randn(6, d_state, dtype=torch.float64)
    with torch.no_grad():
        model.C[0] = torch.view_as_real(C.to(V.dtype) @ V)
    x, mask = ragged(6, 9)
    h, y = torch.zeros(d_state, dtype=torch.float64), []
    columns = [zoh(A, B[:, i], model.log_dt.exp()[0].item()) for i in range(6)]
    for u in x[0]:
        h = columns[0][0] @ h + sum(b * ui for (_, b), ui in zip(columns, u, strict=True))
        y.append(C @ h + model.D * u)
    torch.testing.assert_close(model(x, mask)[0], F.gelu(torch.stack(y)), rtol=1e-5, atol=1e-5)


def test_steps_equal_the_parallel_view(ragged):
    model = layer(bidirectional=False)
    x, mask = ragged(6, 20, 20)
    torch.testing.assert_close(stepped(model, x), model(x, mask), rtol=1e-10, atol=1e-12)


def test_step_says_what_is_missing():
    with pytest.raises(RuntimeError, match="setup_step"):
        layer(bidirectional=False).step(torch.zeros(1, 6).double(), torch.zeros(1, 4))
    with pytest.raises(RuntimeError, match="bidirectional=False"):
        layer().setup_step()


@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_another_sampling_rate_gives_the_same_motion(rate):
    model = layer(bidirectional=False)
    held = torch.randn(1, 1, 6, dtype=torch.float64)
    slow, fast = (1, 2) if rate == 2 else (2, 1)
    before = model(held.expand(1, 40 * slow, 6), torch.ones(1, 40 * slow, dtype=torch.bool))[:, slow - 1 :: slow]
    model.prepare(64, rate=rate)
    after = model(held.expand(1, 40 * fast, 6), torch.ones(1, 40 * fast, dtype=torch.bool))[:, fast - 1 :: fast]
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("clip", [True, False])
def test_clip_alone_keeps_every_eigenvalue_in_the_left_half_plane(clip):
    model = layer(clip=clip)
    with torch.no_grad():
        model.A_real.fill_(0.5)
    assert ((model.system()[0].abs() < 1) == clip).all()


def test_state_space_has_its_own_learning_rate_without_decay():
    model = layer()
    assert all(model.get_parameter(name) is not None for name in model.optim)
    assert all(group == {"lr": 0.001, "weight_decay": 0.0} for group in model.optim.values())
    assert "lr" not in layer(lr=None).optim["B"]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="3 blocks"):
        layer(n_blocks=3)
    with pytest.raises(ValueError, match="'glu'"):
        layer(output="glu")
