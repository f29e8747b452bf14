"""The Triton kernels compile for a GPU; the interpreter accepts code that the compiler may not."""

import pytest

pytest.importorskip("triton")

from helpers.gpu_code import compile_for_gpu
from lra.ops.ssm_kernels.triton import cauchy, vandermonde
from lra.ops.ssm_kernels.triton.backend import REDUCE, SUMS, interpreted

pytestmark = pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET=1: there is nothing to compile")

KERNELS = {
    cauchy.spectrum_forward: SUMS,
    cauchy.woodbury_backward: SUMS,
    cauchy.reduce_frequencies: REDUCE,
    vandermonde.powers_forward: SUMS,
    vandermonde.powers_backward: REDUCE,
}


@pytest.mark.parametrize("real", ["fp32", "fp64"])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_kernel_compiles_for_gpu(kernel, real, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pointers = {name: f"*{real}" for name in kernel.arg_names if name not in ("H", "S", "N", "L", "n_freq")}
    compiled = compile_for_gpu(kernel, {"K": 2, **KERNELS[kernel]}, pointers)
    assert compiled.asm["cubin"]
    # float64 kernels must not round to float32 on the way
    assert real == "fp32" or "f32.f64" not in compiled.asm["ptx"]
