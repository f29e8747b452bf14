"""DSS against its kernels written as in the paper, and a direct convolution."""

import pytest
import torch
import torch.nn.functional as F

from helpers.comparison import assert_same, by_row, convolve, ragged, step_through
from models.dss import DSS

FORMS = ["exp", "softmax"]
# only the softmax form allows states that grow with time
CASES = [("exp", False), ("softmax", False), ("softmax", True)]


def build(H=5, max_len=24, growing=False, **options):
    torch.manual_seed(0)
    model = DSS(H, max_len, **{"d_state": 4, "dt_min": 0.05, "dt_max": 0.5} | options).double()
    if growing:
        with torch.no_grad():
            model.A_real[::2] = 0.3
    return model


def naive_kernel(model):
    """Proposition 1, with the softmax taken over all positions of max_len."""
    C = model.C[..., 0] + 1j * model.C[..., 1]
    real = -model.A_real.exp() if model.form == "exp" else model.A_real
    A, dt = real + 1j * model.A_imag, model.log_dt.exp()
    l = torch.arange(model.length, dtype=torch.float64)
    P = torch.exp(A[None, :, None] * dt[:, None, None] * l)
    if model.form == "exp":
        weight = C * (torch.exp(dt[:, None] * A) - 1) / A
    else:
        weight, P = C / A, P / P.sum(-1, keepdim=True)
    return torch.einsum("khn,hnl->khl", weight, P).real


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("form", "growing"), CASES)
def test_equals_the_naive_convolution(form, bidirectional, growing):
    model = build(form=form, bidirectional=bidirectional, growing=growing)

    def naive(u):
        value, gate = model.out(F.gelu(convolve(u, naive_kernel(model), model.D))).chunk(2, -1)
        return value * torch.sigmoid(gate)

    x, mask = ragged(5, 11, 7, 1)
    # the paper's eps against division by zero changes the softmax by as much
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if form == "exp" else {"rtol": 1e-5, "atol": 1e-5}
    assert_same(model(x, mask)[mask], by_row(naive, x, mask), [x, *model.parameters()], **tolerance)


@pytest.mark.parametrize(("form", "growing"), CASES)
def test_steps_equal_the_convolution(form, growing):
    model = build(form=form, bidirectional=False, growing=growing)
    x, mask = ragged(5, 20, 20)
    torch.testing.assert_close(step_through(model, x), model(x, mask), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_long_kernels_and_gradients_are_finite(form):
    model = build(max_len=16384, form=form).float()
    if form == "softmax":
        with torch.no_grad():
            model.A_real.fill_(0.5)
    K = model.kernel(16384)
    assert K.isfinite().all()
    K.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("form", FORMS)
def test_another_length_keeps_the_kernel(form):
    model = build(form=form, max_len=12)
    before = model.kernel(12)
    model.prepare(40)
    torch.testing.assert_close(model.kernel(40)[..., :12], before, rtol=1e-5, atol=1e-6)


def test_softmax_kernel_is_fitted_to_one_length():
    model = build(form="softmax", max_len=12)
    with pytest.raises(ValueError, match=r"prepare\(13\)"):
        model.kernel(13)
    with pytest.raises(ValueError, match="growing"):
        build(form="softmax", growing=True).prepare(20)


def test_eigenvalues_start_as_those_of_hippo_legs():
    model = build(d_state=8)
    torch.testing.assert_close(-model.A_real.exp(), torch.full((8,), -0.5, dtype=torch.float64))
    assert (model.A_imag > 0).all()


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match="'clip'"):
        build(form="clip")
    for model in (build(backend="cuda"), build(backend="cuda", form="softmax", growing=True)):
        with pytest.raises(ValueError, match="'cuda' is unknown"):
            model.kernel(8)
