"""S5 against a loop over positions, in its own coordinates and in those of the real HiPPO matrix it starts from."""

import pytest
import torch
import torch.nn.functional as F

from helpers.comparison import assert_same, by_row, ragged
from lra.ops.hippo import nplr, rank_correction, transition, zoh
from models.s5 import OUTPUTS, S5


def build(H=6, **options):
    torch.manual_seed(0)
    return S5(H, 64, **{"d_state": 8, "n_blocks": 2, "dt_min": 0.1, "dt_max": 0.9} | options).double()


def gated(model, y):
    g = F.gelu(y)
    if model.output == "gelu":
        return g
    gate = torch.sigmoid(g @ model.gate.weight.T + model.gate.bias)
    if model.output == "full_glu":
        return (g @ model.value.weight.T + model.value.bias) * gate
    return (y if model.output == "half_glu2" else g) * gate


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_a_loop_over_positions(bidirectional, output):
    model = build(bidirectional=bidirectional, output=output)
    # conjugate pairs written out
    A = model.A_real + 1j * model.A_imag
    A, dt = torch.cat([A, A.conj()]), model.log_dt.exp().repeat(2)
    B = model.B[..., 0] + 1j * model.B[..., 1]
    B = torch.cat([B, B.conj()]) * ((torch.exp(A * dt) - 1) / A)[:, None]
    C = model.C[..., 0] + 1j * model.C[..., 1]
    C = torch.cat([C, C.conj()], -1)

    def loop(row):
        y = [model.D * u for u in row]
        for k in range(len(C)):
            h = torch.zeros(len(A), dtype=A.dtype)
            for t in reversed(range(len(row))) if k else range(len(row)):
                h = torch.exp(A * dt) * h + B @ row[t].to(A.dtype)
                y[t] = y[t] + (C[k] @ h).real
        return gated(model, torch.stack(y))

    x, mask = ragged(6, 11, 7, 1)
    assert_same(model(x, mask)[mask], by_row(loop, x, mask), [x, *model.parameters()])


@pytest.mark.parametrize(("d_state", "n_blocks"), [(1, 1), (3, 1), (6, 2), (4, 4)])
def test_starts_as_the_dense_hippo_system(d_state, n_blocks):
    # blocks of odd size have a real eigenvalue
    torch.manual_seed(0)
    model = build(d_state=d_state, n_blocks=n_blocks, dt_min=0.3, dt_max=0.3, bidirectional=False, output="gelu")
    size = d_state // n_blocks
    A, _ = transition("legs", size)
    P = rank_correction("legs", size)
    V = nplr("legs", size).V
    A, V = torch.block_diag(*[A + P.T @ P] * n_blocks), torch.block_diag(*[V] * n_blocks)
    B = 2 * (V @ torch.view_as_complex(model.B)).real
    # C = row V for a real row
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


@pytest.mark.parametrize("clip", [True, False])
def test_clip_keeps_eigenvalues_in_the_left_half_plane(clip):
    model = build(clip=clip)
    with torch.no_grad():
        model.A_real.fill_(0.5)
    assert ((model.system()[0].abs() < 1) == clip).all()


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="3 blocks"):
        build(n_blocks=3)
    with pytest.raises(ValueError, match="'glu'"):
        build(output="glu")
