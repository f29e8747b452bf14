"""S4 against the dense recurrence it computes."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.comparison import step_through
from lra.ops.fftconv import long_conv
from lra.ops.hippo import bilinear, nplr, ssm_kernel, ssm_recurrence, transition
from models.s4 import S4, dense

CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)
MEASURES = ["legs", "legt", "fout", "random", "diagonal"]


def causal(d_model=4, max_len=32, **options) -> S4:
    """A one-sided layer in float64, with the poles of the measure in the same precision."""
    torch.manual_seed(0)
    layer = S4(d_model, max_len, bidirectional=False, **options).double().eval()
    A, P, B, _ = nplr(options.get("init", "legs"), options.get("d_state", 64))
    with torch.no_grad():
        C = layer.true_C()
        layer.A_log_decay.copy_((-A.real).clamp(min=1e-4).log())
        layer.A_imag.copy_(A.imag)
        layer.B.copy_(torch.view_as_real(B.resolve_conj()))
        layer.P.copy_(torch.view_as_real(P.resolve_conj())[:, None])
        layer.correct_length(C)
    return layer


def mask_of(x):
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)


@pytest.mark.parametrize("L", [1, 7, 64, 1000, 4096])
@pytest.mark.parametrize("N", [1, 2, 4, 16, 64])
def test_kernel_equals_the_dense_recurrence(N, L):
    layer = causal(2, L, d_state=N)
    row = 2 * (layer.true_C()[0] @ nplr("legs", N).V.mH).real  # C in the coordinates of HiPPO
    kernel = layer.kernel(L)[0]
    for h, dt in enumerate(layer.log_dt.exp()):
        expected = ssm_kernel(*bilinear(*transition("legs", N), dt.detach()), row[h], L)
        assert (kernel[h] - expected).abs().max() <= 1e-8 * expected.abs().max()


def test_convolution_equals_the_recurrence():
    layer = causal(2, 50, d_state=8)
    u = torch.randn(3, 50, 2, dtype=torch.float64)
    row = 2 * (layer.true_C()[0] @ nplr("legs", 8).V.mH).real
    y = long_conv(u.mT, layer.kernel(50), layer.D)
    for h, dt in enumerate(layer.log_dt.exp()):
        Ab, Bb = bilinear(*transition("legs", 8), dt.detach())
        torch.testing.assert_close(y[:, h], ssm_recurrence(Ab, Bb, row[h], layer.D[h], u[..., h]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("init", ["legt", "fout"])
def test_gradients_of_imaginary_poles_are_exact(init):
    """The reference in float32 would lose them; `precise` computes in float64."""
    torch.manual_seed(0)
    layer = S4(8, 1024, init=init, n_ssm=8, backend="reference")
    exact = copy.deepcopy(layer).double()
    weight = torch.randn(2, 8, 1024)
    (layer.kernel(1024) * weight).sum().backward()
    (exact.kernel(1024) * weight).sum().backward()
    for name, p in exact.named_parameters():
        if p.grad is not None:
            assert (layer.get_parameter(name).grad - p.grad).norm() < 1e-3 * p.grad.norm(), name


@pytest.mark.parametrize("init", MEASURES)
def test_steps_equal_the_convolution(init):
    layer = causal(init=init, d_state=7, n_ssm=2)
    x = torch.randn(2, 32, 4, dtype=torch.float64)
    torch.testing.assert_close(step_through(layer, x), layer(x, mask_of(x)), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("init", MEASURES)
def test_real_state_matrix_has_the_same_eigenvalues(init):
    form = nplr(init, 6)
    real, _ = dense(form.A, form.B, form.P)
    ours, expected = (
        sorted(torch.linalg.eigvals(matrix).tolist(), key=lambda v: (round(v.real, 6), v.imag))
        for matrix in (real, form.dense()[0])
    )
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(expected), rtol=1e-6, atol=1e-6)


class ElementCounter(TorchDispatchMode):
    """Counts the elements of all results."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.count += sum(t.numel() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
        return out


def test_cost_of_a_step_is_linear_in_the_state():
    counts = []
    for N in (64, 256):
        layer = causal(d_state=N)
        layer.setup_step()
        x, state = torch.randn(2, 4, dtype=torch.float64), layer.default_state(2)
        with ElementCounter() as counter:
            layer.discrete.recur(x, state)
        counts.append(counter.count)
    assert counts[1] <= 4 * counts[0]
    assert counts[0] < 2 * 4 * 64**2  # no dense matrix of the state


def test_second_kernel_reads_from_the_right():
    torch.manual_seed(0)
    layer = S4(3, 20).double().eval()
    mirrored = copy.deepcopy(layer)
    with torch.no_grad():
        mirrored.D.zero_()
        layer.D.zero_()
        # the second kernel starts one position away, the first one at the position itself
        layer.C[0].zero_()
        mirrored.C.copy_(layer.C.flip(0))
        mirrored.C[1].zero_()
    u = torch.randn(2, 3, 20, dtype=torch.float64)
    right = long_conv(u, layer.kernel(20))
    left = long_conv(u.flip(-1), mirrored.kernel(20)).flip(-1)
    torch.testing.assert_close(right[..., :-1], left[..., 1:])
    assert right[..., -1].abs().max() < 1e-12


def test_another_length_keeps_the_kernel():
    layer = causal(max_len=100)
    kernel = layer.kernel(100).detach()
    layer.prepare(400)
    assert layer.kernel(400).shape[-1] == 400
    torch.testing.assert_close(layer.kernel(100), kernel, rtol=1e-8, atol=1e-8)
    layer.prepare(100)
    torch.testing.assert_close(layer.kernel(100), kernel, rtol=1e-8, atol=1e-8)


def test_half_the_rate_sums_pairs_of_taps():
    layer = causal(max_len=2000, d_state=4, dt_min=1e-3, dt_max=1e-3)
    fine = layer.kernel(2000).detach()
    layer.prepare(1000, rate=0.5)
    # to the order of the step size
    torch.testing.assert_close(layer.kernel(1000), fine.unflatten(-1, (-1, 2)).sum(-1), rtol=2e-2, atol=2e-3)


def test_too_long_input_is_refused_with_a_hint():
    with pytest.raises(ValueError, match=r"16 positions, input has 17; hint: call prepare\(17\)"):
        S4(2, 16).kernel(17)


@pytest.mark.parametrize("glu", [True, False])
def test_glu_is_optional(glu):
    torch.manual_seed(0)
    layer, x = S4(4, 8, glu=glu), torch.randn(2, 8, 4)
    value, gate = layer.out(x).split([4, 4 * glu], -1)
    torch.testing.assert_close(layer.mix(x), value * gate.sigmoid() if glu else value)
    assert layer(x, mask_of(x)).shape == x.shape


def test_rates_can_differ_by_parameter():
    groups = S4(4, 8, lr={"dt": None, "A": 1e-3, "B": 2e-3}).optim
    assert groups["log_dt"] == {"weight_decay": 0.0}
    assert groups["P"] == groups["A_imag"] == groups["A_log_decay"] == {"weight_decay": 0.0, "lr": 1e-3}
    assert groups["B"] == {"weight_decay": 0.0, "lr": 2e-3}
    assert set(groups) == {"log_dt", "A_log_decay", "A_imag", "P", "B"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_ssm": 3}, "3 copies do not divide 4 features"),
        ({"activation": "tanh"}, "activation: 'tanh'"),
        ({"init": "lin"}, "measure 'lin'"),
        ({"lr": {"C": 1e-3}}, "lr: C"),
        ({"backend": "cuda"}, "'cuda' is unknown"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        S4(4, 8, **options).kernel(8)


def test_tied_copies_sum_their_gradients():
    torch.manual_seed(0)
    tied, free = S4(6, 8, n_ssm=2).double(), S4(6, 8, n_ssm=6).double()
    state = tied.state_dict()
    for name in ("A_log_decay", "A_imag", "B"):
        state[name] = torch.cat([state[name]] * 3)
    state["P"] = torch.cat([state["P"]] * 3, 1)
    free.load_state_dict(state)
    tied.kernel(8).square().sum().backward()
    free.kernel(8).square().sum().backward()
    torch.testing.assert_close(tied.A_imag.grad, free.A_imag.grad.view(3, 2, -1).sum(0))
    torch.testing.assert_close(tied.P.grad, free.P.grad.view(1, 3, 2, -1, 2).sum(1))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_fast_backend_has_the_gradients_of_the_reference(device):
    torch.manual_seed(0)
    fast = S4(8, 200, d_state=16).to(device)
    slow = copy.deepcopy(fast)
    slow.backend = "reference"
    x = torch.randn(2, 150, 8, device=device)
    for layer in (fast, slow):
        layer(x, mask_of(x)).square().sum().backward()
    for (name, p), q in zip(fast.named_parameters(), slow.parameters(), strict=True):
        assert (p.grad - q.grad).norm() <= 1e-3 * q.grad.norm(), name
