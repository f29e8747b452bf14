"""Compile Triton kernels to GPU code, which needs no GPU."""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


def compile_for_gpu(kernel, sizes: dict[str, int], types: dict[str, str]):
    """Compile for sm_90. sizes: constants and `num_warps`; types: of pointer arguments; all others are integers."""
    constants = {name: size for name, size in sizes.items() if name != "num_warps"}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(name),): size for name, size in constants.items()})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": sizes["num_warps"]})
