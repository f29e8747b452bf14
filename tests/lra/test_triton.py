"""The fused kernels are compiled for a GPU, which needs none: the interpreter accepts what the compiler may not."""

import pytest

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from lra.kernels import triton_nplr, triton_powers  # noqa: E402
from lra.kernels.triton import REDUCE, SUMS, interpreted  # noqa: E402

pytestmark = pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET=1: there is nothing to compile")

KERNELS = {
    triton_nplr.spectrum_forward: SUMS,
    triton_nplr.woodbury_backward: SUMS,
    triton_nplr.reduce_frequencies: REDUCE,
    triton_powers.powers_forward: SUMS,
    triton_powers.powers_backward: REDUCE,
}


@pytest.mark.parametrize("real", ["fp32", "fp64"])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_the_kernels_compile_for_a_gpu(kernel, real, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sizes = {"K": 2, **KERNELS[kernel]}
    warps = sizes.pop("num_warps")
    signature = {
        name: "constexpr" if name in sizes else "i32" if name in ("H", "S", "N", "L", "n_freq") else f"*{real}"
        for name in kernel.arg_names
    }
    constants = {(kernel.arg_names.index(name),): size for name, size in sizes.items()}
    source = ASTSource(kernel, signature, constants)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    assert made.asm["cubin"]
    # in double precision nothing on the way is rounded to single
    assert real == "fp32" or "f32.f64" not in made.asm["ptx"]
