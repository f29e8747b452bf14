"""S4 against the dense recurrence it stands for."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.recurrent_steps import stepped
from lra.ops.fftconv import long_conv
from lra.ops.hippo import bilinear, nplr, ssm_kernel, ssm_recurrence, transition
from models.s4 import S4, dense

CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)


def causal(d_model=4, max_len=32, **options) -> S4:
    """In float64, with the poles of the measure as exact as that."""
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
def test_kernel_equals_the_dense_recurrence_of_hippo_legs(N, L):
    layer = causal(2, L, d_state=N)
    row = 2 * (layer.true_C()[0] @ nplr("legs", N).V.mH).real  # C in the coordinates of HiPPO
    kernel = layer.kernel(L)[0]
    for h, dt in enumerate(layer.log_dt.exp()):
        expected = ssm_kernel(*bilinear(*transition("legs", N), dt.detach()), row[h], L)
        assert (kernel[h] - expected).abs().max() <= 1e-8 * expected.abs().max()


def test_convolution_equals_the_recurrence_with_its_skip():
    layer = causal(2, 50, d_state=8)
    u = torch.randn(3, 50, 2, dtype=torch.float64)
    row = 2 * (layer.true_C()[0] @ nplr("legs", 8).V.mH).real
    y = long_conv(u.mT, layer.kernel(50), layer.D)
    for h, dt in enumerate(layer.log_dt.exp()):
        Ab, Bb = bilinear(*transition("legs", 8), dt.detach())
        torch.testing.assert_close(y[:, h], ssm_recurrence(Ab, Bb, row[h], layer.D[h], u[..., h]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("init", ["legt", "fout"])
def test_gradients_are_right_also_where_poles_lie_on_the_imaginary_axis(init):
    """In float32 the definition alone would lose them; lra.ops.ssm_kernels.dispatch is told to be precise."""
    torch.manual_seed(0)
    layer = S4(8, 1024, init=init, n_ssm=8, backend="reference")
    exact = copy.deepcopy(layer).double()
    weight = torch.randn(2, 8, 1024)
    (layer.kernel(1024) * weight).sum().backward()
    (exact.kernel(1024) * weight).sum().backward()
    for name, p in exact.named_parameters():
        if p.grad is not None:
            assert (layer.get_parameter(name).grad - p.grad).norm() < 1e-3 * p.grad.norm(), name


@pytest.mark.parametrize("init", ["legs", "legt", "fout", "random", "diagonal"])
def test_step_equals_convolution_for_every_measure(init):
    layer = causal(init=init, d_state=7, n_ssm=2)
    x = torch.randn(2, 32, 4, dtype=torch.float64)
    expected = layer(x, mask_of(x))
    torch.testing.assert_close(stepped(layer, x), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("init", ["legs", "legt", "fout", "random", "diagonal"])
def test_real_form_of_the_state_is_the_measures_own_matrix(init):
    """Same eigenvalues: the two differ by a change of basis."""
    form = nplr(init, 6)
    real, _ = dense(form.A, form.B, form.P)
    expected = torch.linalg.eigvals(form.dense()[0])
    order = lambda z: sorted(z.tolist(), key=lambda v: (round(v.real, 6), v.imag))  # noqa: E731
    torch.testing.assert_close(
        torch.tensor(order(torch.linalg.eigvals(real))), torch.tensor(order(expected)), rtol=1e-6, atol=1e-6
    )


class Elements(TorchDispatchMode):
    """Counts the numbers that operators make."""

    made = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.made += sum(t.numel() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
        return out


def test_a_step_costs_in_proportion_to_the_state():
    made = []
    for N in (64, 256):
        layer = causal(d_state=N)
        layer.setup_step()
        x, state = torch.randn(2, 4, dtype=torch.float64), layer.default_state(2)
        with Elements() as counted:
            layer.discrete.step(x, state)
        made.append(counted.made)
    assert made[1] <= 4 * made[0]
    # no matrix of the state anywhere
    assert made[0] < 2 * 4 * 64**2


def test_second_kernel_reads_the_sequence_from_the_right():
    torch.manual_seed(0)
    layer = S4(3, 20).double().eval()
    mirrored = copy.deepcopy(layer)
    with torch.no_grad():
        mirrored.D.zero_()
        layer.D.zero_()
        # the right-hand kernel starts one position away, the left-hand one at the position itself
        layer.C[0].zero_()
        mirrored.C.copy_(layer.C.flip(0))
        mirrored.C[1].zero_()
    u = torch.randn(2, 3, 20, dtype=torch.float64)
    right = long_conv(u, layer.kernel(20))
    left = long_conv(u.flip(-1), mirrored.kernel(20)).flip(-1)
    torch.testing.assert_close(right[..., :-1], left[..., 1:])
    assert right[..., -1].abs().max() < 1e-12


def test_padding_never_reaches_a_real_position():
    torch.manual_seed(0)
    layer = S4(4, 40).double().eval()
    x = torch.randn(1, 30, 4, dtype=torch.float64)
    longer = torch.cat([x, torch.full((1, 10, 4), 9.0, dtype=torch.float64)], 1)
    mask = torch.arange(40)[None] < 30
    torch.testing.assert_close(layer(longer, mask)[:, :30], layer(x, mask_of(x)))


def test_preparing_for_another_length_keeps_the_kernel():
    layer = causal(max_len=100)
    kernel = layer.kernel(100).detach()
    layer.prepare(400)
    assert layer.kernel(400).shape[-1] == 400
    torch.testing.assert_close(layer.kernel(100), kernel, rtol=1e-8, atol=1e-8)
    layer.prepare(100)
    torch.testing.assert_close(layer.kernel(100), kernel, rtol=1e-8, atol=1e-8)


def test_half_the_sampling_rate_gives_every_second_value_of_the_continuous_kernel():
    """dt twice as long: the taps at half the rate are the sums of two, to the order of the step."""
    layer = causal(max_len=2000, d_state=4, dt_min=1e-3, dt_max=1e-3)
    fine = layer.kernel(2000).detach()
    layer.prepare(1000, rate=0.5)
    coarse = layer.kernel(1000)
    torch.testing.assert_close(coarse, fine.unflatten(-1, (-1, 2)).sum(-1), rtol=2e-2, atol=2e-3)


def test_input_longer_than_prepared_for_is_refused_with_the_cure():
    layer = S4(2, 16)
    x = torch.zeros(1, 17, 2)
    with pytest.raises(ValueError, match=r"prepared for 16 positions, the input has 17: call prepare\(17\)"):
        layer(x, mask_of(x))


def test_length_is_part_of_the_checkpoint():
    trained, other = S4(2, 16), S4(2, 32)
    other.load_state_dict(trained.state_dict())
    assert other.length == 16
    torch.testing.assert_close(other.kernel(16), trained.kernel(16))


def test_two_sided_layer_has_no_step_and_an_unprepared_one_says_so():
    with pytest.raises(RuntimeError, match="reads the future"):
        S4(2, 8).setup_step()
    layer = S4(2, 8, bidirectional=False)
    with pytest.raises(RuntimeError, match=r"call setup_step\(\) first"):
        layer.step(torch.zeros(1, 2), layer.default_state(1))


@pytest.mark.parametrize("glu", [True, False])
def test_the_output_is_gated_only_if_told_to(glu):
    torch.manual_seed(0)
    layer, x = S4(4, 8, glu=glu), torch.randn(2, 8, 4)
    value, gate = layer.out(x).split([4, 4 * glu], -1)
    torch.testing.assert_close(layer.mix(x), value * gate.sigmoid() if glu else value)
    assert layer(x, mask_of(x)).shape == x.shape


def test_kernel_parameters_declare_their_rates_and_no_weight_decay():
    groups = S4(4, 8, lr={"dt": None, "A": 1e-3, "B": 2e-3}).optim
    assert groups["log_dt"] == {"weight_decay": 0.0}
    assert groups["P"] == groups["A_imag"] == groups["A_log_decay"] == {"weight_decay": 0.0, "lr": 1e-3}
    assert groups["B"] == {"weight_decay": 0.0, "lr": 2e-3}
    assert set(groups) == {"log_dt", "A_log_decay", "A_imag", "P", "B"}


def test_bad_options_are_one_clear_line():
    with pytest.raises(ValueError, match="3 copies do not divide 4 features"):
        S4(4, 8, n_ssm=3)
    with pytest.raises(ValueError, match="activation: 'tanh' is not one of"):
        S4(4, 8, activation="tanh")
    with pytest.raises(ValueError, match="measure 'lin'"):
        S4(4, 8, init="lin")
    with pytest.raises(ValueError, match="lr: C is none of A, B, dt"):
        S4(4, 8, lr={"C": 1e-3})
    with pytest.raises(ValueError, match="kernel backend 'cuda' is unknown"):
        S4(4, 8, backend="cuda").kernel(8)


def test_tied_copies_equal_independent_ones_and_collect_their_gradients():
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
def test_fast_backend_trains_like_the_definition(device):
    """One step of every parameter, float32."""
    torch.manual_seed(0)
    fast = S4(8, 200, d_state=16).to(device)
    slow = copy.deepcopy(fast)
    slow.backend = "reference"
    x = torch.randn(2, 150, 8, device=device)
    for layer in (fast, slow):
        layer(x, mask_of(x)).square().sum().backward()
    for (name, p), q in zip(fast.named_parameters(), slow.parameters(), strict=True):
        assert (p.grad - q.grad).norm() <= 1e-3 * q.grad.norm(), name
