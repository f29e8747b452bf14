"""Matrix products of float32 numbers on processors that MKL does not know.

PyTorch multiplies matrices with MKL, which uses vectors of at most 32 bytes unless Intel made the processor. oneDNN,
also part of PyTorch, uses AVX-512 everywhere. With it, both passes of a linear map take 0.52 to 0.60 of the time on one
thread of a Zen 5, for 64 to 256 inputs, 128 to 512 outputs, 4,096 to 16,384 positions (measured once).
"""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lra.ops.autograd_function import Function, can_branch
from lra.ops.fftconv import loops_allowed

# numbers in x below which the call itself costs more than is gained
SMALL = 2**15


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch.nn.functional.linear: x (..., K), weight (N, K), bias (N,) -> (..., N)."""
    if not can_branch(x) or x.numel() < SMALL or not suits(x, weight) or not loops_allowed():
        return F.linear(x, weight, bias)
    y: Tensor = LinearFunction.apply(x.flatten(0, -2), weight, bias)
    return y.unflatten(0, x.shape[:-1])


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is the faster one."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and mkl_is_slow()
    )


@functools.cache
def mkl_is_slow() -> bool:
    """True for processors with AVX-512 that are not from Intel."""
    info = Path("/proc/cpuinfo")
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and info.exists()
        and "GenuineIntel" not in info.read_text()
    )


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (M, K), weight (N, K), in any layout -> (M, N)."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


class LinearFunction(Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return by_onednn(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        dx = linear(dy, weight.mT) if ctx.needs_input_grad[0] else None
        # the transpose of dy.mT @ x, because oneDNN is faster with more columns than rows in the second factor
        dweight = linear(x.mT, dy.mT).mT if ctx.needs_input_grad[1] else None
        return dx, dweight, None if bias is None else dy.sum(0)


class Linear(nn.Linear):
    """torch.nn.Linear by the function `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def speed_up(model: nn.Module) -> None:
    """Make every torch.nn.Linear of the model a `Linear`; names and parameters stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
