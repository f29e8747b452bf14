"""The door to the kernels: which backend runs where, what says no and why, and what torch.compile makes of it."""

import os
import sys

import pytest
import torch

from lra.ops.ssm_kernels import dispatch
from lra.ops.ssm_kernels.dispatch import diagonal_kernel, nplr_kernel, nplr_spectrum
from models.s4 import S4


def system() -> list[torch.Tensor]:
    """dt, A, B, C, P of a small layer."""
    return [x.detach() for x in S4(2, 8, d_state=4).system()]


@pytest.fixture
def build():
    return dispatch.import_module("lra.ops.ssm_kernels.cpp").library.__wrapped__


def test_kernels_run_on_the_device_of_their_parameters(monkeypatch):
    """Triton launches on the current device: on the second of two it would fail."""
    entered = []

    class Current(torch.cuda.device_of):
        def __enter__(self):
            entered.append(self.idx)

    monkeypatch.setattr("torch.cuda.device_of", Current)
    dt, A, B, C, P = system()
    nplr_spectrum(dt, A, B, C, P, 8)
    diagonal_kernel(dt, A, B, C, 8)
    S4(2, 8, d_state=4).kernel(8)
    assert entered == [-1, -1, -1]


def test_unknown_backend_and_discretization_are_refused():
    dt, A, B, C, P = system()
    with pytest.raises(ValueError, match="'cuda' is unknown: use one of auto, reference"):
        nplr_spectrum(dt, A, B, C, P, 8, backend="cuda")
    with pytest.raises(ValueError, match="'euler' is unknown"):
        diagonal_kernel(dt, A, B, C, 8, discretization="euler")
    with pytest.raises(ValueError, match="at least 1"):
        nplr_spectrum(dt, A, B, C, P, 0)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels do run on a CPU")
def test_named_backend_that_cannot_run_says_why():
    dt, A, B, C, P = system()
    with pytest.raises(RuntimeError, match="'triton' cannot run on cpu: it runs on cuda"):
        nplr_spectrum(dt, A, B, C, P, 8, backend="triton")


def test_a_package_that_is_missing_is_a_reason(monkeypatch):
    monkeypatch.delitem(sys.modules, "lra.ops.ssm_kernels.triton.backend", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert dispatch.unavailable_reason("triton", "cpu") == "the package triton is not installed"


def test_shapes_that_do_not_belong_together_are_refused():
    dt, A, B, C, P = system()
    for wrong in ((dt, A, B[:, :1], C), (dt, A, B, C[:, :1]), (dt, A.repeat(3, 1), B.repeat(3, 1), C)):
        with pytest.raises(ValueError, match=r"^dt \(2,\), A .*C \(K, H, N\) are needed"):
            diagonal_kernel(*wrong, 8)
    with pytest.raises(ValueError, match=r"P has shape \(1, 1, 1\): .*\(S, N\) = \(1, 2\) is needed"):
        nplr_spectrum(dt, A, B, C, P[..., :1], 8)
    log_dt, log_decay, *others, P = S4(2, 8, d_state=4).trained()
    with pytest.raises(ValueError, match=r"P has shape \(1, 1, 1\): .*\(S, N\) = \(1, 2\) is needed"):
        nplr_kernel(log_dt, log_decay, *others, P[..., :1, :], 8)
    with pytest.raises(ValueError, match=r"^dt \(2,\), A \(1, 1\), B \(1, 2\)"):
        nplr_kernel(log_dt, log_decay[:, :1], *others, P, 8)


def test_auto_takes_the_loops_on_a_cpu_and_the_definition_in_float64():
    assert dispatch.select_backend("auto", "cpu") == "compiled"
    assert dispatch.select_backend("auto", "cpu", torch.float64) == "reference"


def test_auto_says_aloud_on_a_device_that_no_backend_knows():
    with pytest.warns(UserWarning, match="slow reference.*keops: it runs on cpu and cuda, not on meta"):
        assert dispatch.select_backend("auto", "meta") == "reference"


def test_auto_says_aloud_when_only_the_definition_can_run(monkeypatch):
    for name in ("compiled", "keops"):
        monkeypatch.setattr(f"lra.ops.ssm_kernels.{dispatch.BACKENDS[name]}.unavailable_reason", lambda *_: "no compiler")
    with pytest.warns(UserWarning, match="slow reference.*compiled: no compiler"):
        assert dispatch.select_backend("auto", "cpu") == "reference"


def test_compiled_loops_are_built_once_and_a_missing_compiler_is_named(build, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build(torch.float32, 1, 1)
    (built,) = (tmp_path / "lra" / "kernels").iterdir()
    before = built.stat().st_mtime_ns
    build(torch.float32, 1, 1)
    assert built.stat().st_mtime_ns == before
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler: install"):
        build(torch.float32, 1, 1)


def a_file(cache, build, monkeypatch):
    cache.touch()


def damaged(cache, build, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "first"))
    build(torch.float32, 1, 1)
    (built,) = (cache / "first" / "lra" / "kernels").iterdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    (cache / "lra" / "kernels").mkdir(parents=True)
    (cache / "lra" / "kernels" / built.name).write_text("no library")


def no_home(cache, build, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}["an unknown user"])


@pytest.mark.parametrize("trouble", [a_file, damaged, no_home])
def test_a_cache_folder_that_keeps_nothing_is_done_without_or_is_a_reason_with_its_cure(
    trouble, build, tmp_path, monkeypatch
):
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    trouble(cache, build, monkeypatch)
    (tmp_path / "own").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "own"))
    assert build(torch.float32, 1, 1).spectrum
    assert list((tmp_path / "own").iterdir()) == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(RuntimeError, match=r"cannot keep what is built \(.+\): set XDG_CACHE_HOME to a folder"):
        build(torch.float32, 1, 1)


def test_backends_that_ran_are_on_record():
    nplr_spectrum(*system(), 8, backend="reference")
    assert "reference" in dispatch.backends_used()["nplr_spectrum"]


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_torch_compile_leaves_the_kernels_as_they_are(backend):
    """As trainer.compile=true does it, without its code generator: the same bits, and no more than a few pieces."""
    torch.manual_seed(0)
    layer, x, mask = S4(8, 64, backend=backend), torch.randn(2, 64, 8), torch.ones(2, 64, dtype=torch.bool)
    outputs = [net(x, mask) for net in (layer, torch.compile(layer, backend="aot_eager"))]
    gradients = [torch.autograd.grad(y.square().sum(), list(layer.parameters())) for y in outputs]
    assert torch.equal(*outputs)
    assert all(map(torch.equal, *gradients))
    assert torch._dynamo.explain(layer)(x, mask).graph_break_count <= 3
