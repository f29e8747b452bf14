"""Triton kernels made into a GPU's code, for which no GPU is needed."""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


def compiled_for_a_gpu(kernel, sizes: dict[str, int], types: dict[str, str]):
    """The kernel for sm_90; sizes are its constants and `num_warps`, types those of its pointers, the rest integers."""
    constants = {name: size for name, size in sizes.items() if name != "num_warps"}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(name),): size for name, size in constants.items()})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": sizes["num_warps"]})
