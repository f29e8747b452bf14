"""Choice of the kernel backend: which one runs where, reasons why one cannot, and torch.compile."""

import os
import sys

import pytest
import torch

from lra.ops.cpp_library import library
from lra.ops.ssm_kernels import dispatch
from lra.ops.ssm_kernels.dispatch import diagonal_kernel, nplr_kernel, nplr_spectrum
from models.s4 import S4


def build():
    """Without the cache in memory."""
    return library.__wrapped__("cauchy", "REAL=float", "OUTPUTS=1", "RANK=1")


def system() -> list[torch.Tensor]:
    """dt, A, B, C, P of a small layer."""
    return [x.detach() for x in S4(2, 8, d_state=4).system()]


def test_kernels_run_on_the_tensors_device(monkeypatch):
    """Triton launches on the current device, so with two GPUs it would use the wrong one."""
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


def test_bad_arguments_are_refused():
    dt, A, B, C, P = system()
    with pytest.raises(ValueError, match=r"'cuda'.*hint: .*auto, reference"):
        nplr_spectrum(dt, A, B, C, P, 8, backend="cuda")
    with pytest.raises(ValueError, match=r"'euler'.*hint: zoh"):
        diagonal_kernel(dt, A, B, C, 8, discretization="euler")
    with pytest.raises(ValueError, match="L=0"):
        nplr_spectrum(dt, A, B, C, P, 0)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels do run on a CPU")
def test_named_backend_that_cannot_run_raises():
    with pytest.raises(RuntimeError, match=r"'triton' cannot run on cpu: (it runs on cuda|.* not installed)"):
        nplr_spectrum(*system(), 8, backend="triton")


def test_missing_package_is_a_reason(monkeypatch):
    monkeypatch.delitem(sys.modules, "lra.ops.ssm_kernels.triton.backend", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "triton" in dispatch.unavailable_reason("triton", "cpu")


def test_mismatched_shapes_are_refused():
    dt, A, B, C, P = system()
    for wrong in ((dt, A, B[:, :1], C), (dt, A, B, C[:, :1]), (dt, A.repeat(3, 1), B.repeat(3, 1), C)):
        with pytest.raises(ValueError, match=r"dt \(2,\), A .*C \(K, H, N\)"):
            diagonal_kernel(*wrong, 8)
    log_dt, log_decay, *others, trained_P = S4(2, 8, d_state=4).kernel_parameters()
    with pytest.raises(ValueError, match=r"P \(1, 1, 1\).*\(S, N\) = \(1, 2\)"):
        nplr_spectrum(dt, A, B, C, P[..., :1], 8)
    with pytest.raises(ValueError, match=r"P \(1, 1, 1\).*\(S, N\) = \(1, 2\)"):
        nplr_kernel(log_dt, log_decay, *others, trained_P[..., :1, :], 8)
    with pytest.raises(ValueError, match=r"dt \(2,\), A \(1, 1\), B \(1, 2\)"):
        nplr_kernel(log_dt, log_decay[:, :1], *others, trained_P, 8)


def test_auto_on_cpu():
    assert dispatch.select_backend("auto", "cpu") == "compiled"
    assert dispatch.select_backend("auto", "cpu", torch.float64) == "reference"


@pytest.mark.parametrize(
    ("device", "reason"), [("xpu", "keops: it runs on cpu and cuda, not on xpu"), ("cpu", "compiled: no compiler")]
)
def test_auto_warns_if_only_reference_runs(device, reason, monkeypatch):
    if device == "cpu":
        for name in ("cpp", "keops"):
            monkeypatch.setattr(f"{dispatch.PACKAGE}.{name}.unavailable_reason", lambda *_: "no compiler")
    with pytest.warns(UserWarning, match=f"slow reference.*{reason}"):
        assert dispatch.select_backend("auto", device) == "reference"


def test_library_is_built_once_and_needs_a_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build()
    (built,) = (tmp_path / "lra" / "kernels").iterdir()
    before = built.stat().st_mtime_ns
    build()
    assert built.stat().st_mtime_ns == before
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler"):
        build()


def cache_is_a_file(cache, monkeypatch):
    cache.touch()


def cached_library_is_damaged(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "first"))
    build()
    (built,) = (cache / "first" / "lra" / "kernels").iterdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    (cache / "lra" / "kernels").mkdir(parents=True)
    (cache / "lra" / "kernels" / built.name).write_text("not a library")


def no_home(cache, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}["an unknown user"])


@pytest.mark.parametrize("trouble", [cache_is_a_file, cached_library_is_damaged, no_home])
def test_unusable_cache_folder_is_replaced(trouble, tmp_path, monkeypatch):
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    trouble(cache, monkeypatch)
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert build().spectrum
    assert list(temporary.iterdir()) == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(RuntimeError, match=r"cache folder .*\(.+\).*XDG_CACHE_HOME"):
        build()


def test_used_backends_are_recorded():
    nplr_spectrum(*system(), 8, backend="reference")
    assert "reference" in dispatch.backends_used()["nplr_spectrum"]


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_torch_compile_changes_no_bit(backend):
    """As with trainer.compile=true, but without code generation; and there is no graph break."""
    torch.manual_seed(0)
    layer, x, mask = S4(8, 64, backend=backend), torch.randn(2, 64, 8), torch.ones(2, 64, dtype=torch.bool)
    outputs = [net(x, mask) for net in (layer, torch.compile(layer, backend="aot_eager"))]
    gradients = [torch.autograd.grad(y.square().sum(), list(layer.parameters())) for y in outputs]
    assert torch.equal(*outputs)
    # the reference's gradients are sums over many operations, compiled in another order
    tolerance = 0 if backend == "compiled" else 1e-6
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)
    assert torch._dynamo.explain(layer)(x, mask).graph_break_count == 0
