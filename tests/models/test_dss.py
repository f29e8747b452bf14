"""DSS against its kernels written out as in the paper, and a direct convolution."""

import pytest
import torch
import torch.nn.functional as F

from helpers.recurrent_steps import stepped
from models.dss import DSS

FORMS = ["exp", "softmax"]
# states that grow with time are for the softmax form alone
CASES = [("exp", False), ("softmax", False), ("softmax", True)]


def layer(H=5, max_len=24, **kwargs):
    torch.manual_seed(0)
    return DSS(H, max_len, **{"d_state": 4, "dt_min": 0.05, "dt_max": 0.5} | kwargs).double()


def grow(model):
    """Some states with a positive real part, which only the softmax form admits."""
    with torch.no_grad():
        model.A_real[::2] = 0.3


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


def naive(model, x, mask):
    K = naive_kernel(model)
    rows = []
    for row, real in zip(x, mask, strict=True):
        length = int(real.sum())
        y = []
        for t in range(length):
            total = model.D * row[t]
            for s in range(t + 1):
                total = total + K[0, :, t - s] * row[s]
            if len(K) == 2:
                for s in range(t + 1, length):
                    total = total + K[1, :, s - t - 1] * row[s]
            y.append(total)
        value, gate = model.out(F.gelu(torch.stack(y))).chunk(2, -1)
        rows.append(torch.cat([value * torch.sigmoid(gate), torch.zeros_like(row[length:])]))
    return torch.stack(rows)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("form", "growing"), CASES)
def test_layer_is_the_loop_in_values_and_gradients(form, bidirectional, growing, ragged, assert_same):
    model = layer(form=form, bidirectional=bidirectional)
    if growing:
        grow(model)
    x, mask = ragged(5, 11, 7, 1)
    ours, theirs = model(x, mask), naive(model, x, mask)
    # the paper's eps, against division by zero, moves a softmax by that much
    torch.testing.assert_close(ours[mask], theirs[mask], rtol=1e-5, atol=1e-6)
    weight = torch.randn(ours.shape, dtype=ours.dtype) * mask[..., None]
    inputs = [x, *model.parameters()]
    a = torch.autograd.grad((ours * weight).sum(), inputs)
    b = torch.autograd.grad((theirs * weight).sum(), inputs)
    tolerance = 1e-9 if form == "exp" else 1e-5
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("form", "growing"), CASES)
def test_steps_equal_the_parallel_view(form, growing, ragged):
    model = layer(form=form, bidirectional=False)
    if growing:
        grow(model)
    x, mask = ragged(5, 20, 20)
    torch.testing.assert_close(stepped(model, x), model(x, mask), rtol=1e-9, atol=1e-10)


def test_step_says_what_is_missing():
    with pytest.raises(RuntimeError, match="setup_step"):
        layer(bidirectional=False).step(torch.zeros(1, 5).double(), torch.zeros(1, 5, 4))
    with pytest.raises(RuntimeError, match="bidirectional=False"):
        layer().setup_step()


@pytest.mark.parametrize("form", FORMS)
def test_growth_of_the_softmax_is_bounded_at_any_length(form):
    model = layer(max_len=16384, form=form).float()
    if form == "softmax":
        with torch.no_grad():
            model.A_real.fill_(0.5)
    K = model.kernel(16384)
    assert K.isfinite().all()
    K.square().sum().backward()
    assert all(p.grad.isfinite().all() for name, p in model.named_parameters() if p.grad is not None)


@pytest.mark.parametrize("form", FORMS)
def test_another_length_keeps_the_kernel(form):
    model = layer(form=form, max_len=12)
    before = model.kernel(12)
    model.prepare(40)
    after = model.kernel(40)
    torch.testing.assert_close(after[..., :12], before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_another_sampling_rate_gives_the_same_motion(form):
    # a held input, seen at steps of one and of two: what the state gains over two short steps is one long one's
    model = layer(form=form, bidirectional=False, max_len=40)
    with torch.no_grad():
        model.D.zero_()
    held = torch.randn(1, 1, 5, dtype=torch.float64)
    before = model(held.expand(1, 40, 5), torch.ones(1, 40, dtype=torch.bool))[:, 1::2]
    model.prepare(20, rate=0.5)
    after = model(held.expand(1, 20, 5), torch.ones(1, 20, dtype=torch.bool))
    # the eps of the softmax, again
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)


def test_softmax_beyond_its_length_is_refused():
    model = layer(form="softmax", max_len=12)
    with pytest.raises(ValueError, match=r"prepare\(13\)"):
        model(torch.zeros(1, 13, 5).double(), torch.ones(1, 13, dtype=torch.bool))
    grow(model)
    with pytest.raises(ValueError, match="growing"):
        model.prepare(20)


def test_eigenvalues_start_as_those_of_a_hippo_matrix_twice_the_size():
    model = layer(d_state=8)
    torch.testing.assert_close(-model.A_real.exp(), torch.full((8,), -0.5, dtype=torch.float64))
    assert (model.A_imag > 0).all()


def test_state_space_has_its_own_learning_rate_without_decay():
    model = layer()
    assert all(model.get_parameter(name) is not None for name in model.optim)
    assert all(group == {"lr": 0.001, "weight_decay": 0.0} for group in model.optim.values())
    assert "lr" not in layer(lr=None).optim["A_real"]


def test_unknown_forms_and_backends_are_named():
    with pytest.raises(ValueError, match="'clip'"):
        layer(form="clip")
    decaying, growing = layer(backend="cuda"), layer(backend="cuda", form="softmax")
    grow(growing)
    for model in (decaying, growing):
        with pytest.raises(ValueError, match="kernel backend 'cuda' is unknown"):
            model.kernel(8)
