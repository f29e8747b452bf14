"""The C++ step of a state space against its definition."""

import copy

import pytest
import torch
from torch import nn

from lra.ops.cpp_library import library
from lra.ops.ssm_step import DiscreteSSM


def system(H, M, R, dtype=torch.float64):
    torch.manual_seed(0)
    real = lambda *shape: torch.randn(*shape, dtype=torch.float64)  # noqa: E731
    complex_ = lambda *shape: torch.complex(real(*shape), real(*shape))  # noqa: E731
    parts = (complex_(H, M), complex_(H, M), complex_(H, M), real(H), complex_(R, H, M), complex_(R, H, M))
    return DiscreteSSM(*(z.to(dtype.to_complex() if z.is_complex() else dtype) for z in parts))


@pytest.mark.parametrize("R", [0, 1, 2])
@pytest.mark.parametrize(("B", "H", "M"), [(1, 1, 1), (3, 35, 7), (2, 5, 32), (1, 3, 33)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loop_equals_the_definition(R, B, H, M, dtype):
    ssm, exact = system(H, M, R, dtype), system(H, M, R)
    u, x = torch.randn(B, H, dtype=dtype), torch.randn(B, H, M, dtype=dtype.to_complex())
    assert ssm.runs_compiled(u, x)
    y, new = exact.recur(u.double(), x.to(torch.complex128))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    scale = float(new.abs().max()) * M**0.5
    for activation in (None, nn.GELU(), nn.ReLU(), nn.GELU("tanh")):
        ours, next_ = ssm.step(u, x, activation)
        assert ours.dtype == dtype
        assert next_.dtype == x.dtype
        expected = y if activation is None else activation(y)
        torch.testing.assert_close(ours.double(), expected, rtol=0, atol=tolerance * scale)
        torch.testing.assert_close(next_.to(torch.complex128), new, rtol=0, atol=tolerance * scale)


def test_definition_is_the_dense_recurrence():
    ssm = system(2, 3, 1)
    x, u = torch.randn(1, 2, 3, dtype=torch.complex128), torch.randn(1, 2, dtype=torch.float64)
    y, new = ssm.recur(u, x)
    for h in range(2):
        # both of each conjugate pair
        pair = lambda z, h=h: torch.cat([z[h], z[h].conj()])  # noqa: E731
        dense = pair(ssm.A).diag() - torch.outer(pair(ssm.P[0]), pair(ssm.Q[0]).conj())
        expected = dense @ pair(x[0]) + pair(ssm.B) * u[0, h]
        torch.testing.assert_close(pair(new[0]), expected)
        torch.testing.assert_close(y[0, h], (pair(ssm.C) @ expected).real + ssm.D[h] * u[0, h])


def test_several_threads_compute_the_same():
    ssm = system(70, 9, 1)
    ssm.pack()
    u, x = torch.randn(4, 70, dtype=torch.float64), torch.randn(4, 70, 9, dtype=torch.complex128)
    expected = ssm.recur(u, x)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lra.ops.ssm_step.LARGE", 0)
            y, new = ssm.compiled(u, x, False)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close((y, new), expected)


def test_gradients_of_input_and_state_take_the_definition():
    ssm = system(3, 4, 1)
    u, x = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.complex128)
    inputs = (u.requires_grad_(), x.requires_grad_())
    assert torch.autograd.gradcheck(lambda *p: ssm.step(*p, nn.GELU()), inputs)
    with torch.no_grad():
        assert ssm.runs_compiled(u, x)


@pytest.mark.parametrize("change", ["strided", "half", "other precision", "no compiler"])
def test_what_the_loop_does_not_take_is_left_to_pytorch(change, monkeypatch):
    ssm = system(4, 4, 1, torch.float32)
    u, x = torch.randn(2, 4), torch.randn(2, 4, 4, dtype=torch.complex64)
    expected = ssm.recur(u, x)
    if change == "strided":
        u, x = u.mT.contiguous().mT, x.mT.contiguous().mT
    elif change == "half":
        u = u.half()
    elif change == "other precision":
        u = u.double()
    else:
        monkeypatch.setattr("lra.ops.ssm_step.has_loops", lambda: False)
    assert not ssm.runs_compiled(u, x)
    y, new = ssm.step(u, x)
    assert y.dtype == u.dtype
    tolerance = 1e-2 if change == "half" else 1e-5
    torch.testing.assert_close(y.float(), expected[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(new, expected[1], rtol=tolerance, atol=tolerance)


def test_a_missing_compiler_is_a_warning(monkeypatch):
    from lra.ops import ssm_step

    def missing(*_):
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(ssm_step, "library", missing)
    ssm_step.has_loops.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"slower operations \(no C\+\+ compiler found\)"):
            assert not ssm_step.has_loops()
    finally:
        ssm_step.has_loops.cache_clear()
    assert library("step", "REAL=float", "RANK=1")


def test_a_copy_steps_like_the_original():
    ssm = system(3, 4, 1)
    u, x = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.complex128)
    expected = ssm.step(u, x)
    torch.testing.assert_close(copy.deepcopy(ssm).step(u, x), expected, rtol=0, atol=0)
