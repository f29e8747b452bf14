"""Floating-point operations of a forward pass: matrix products, convolutions, attention and Fourier transforms.

Not counted: element-wise work (scans and gates among it) and kernels that are no PyTorch operators. Products of complex
numbers count as those of real ones.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lra.task import TaskSpec

LONGEST = 1024


def _transform(real: bool):
    def count(x: tuple, dim: list[int], *arguments, out_shape: tuple, **named) -> int:
        # 5 n log2 n for n complex numbers, half of it for real ones
        shape = x if math.prod(x) >= math.prod(out_shape) else out_shape
        n = math.prod(shape[d] for d in dim)
        return round((2.5 if real else 5) * math.prod(shape) * math.log2(max(2, n)))

    return count


TRANSFORMS = {
    torch.ops.aten._fft_r2c: _transform(real=True),
    torch.ops.aten._fft_c2r: _transform(real=True),
    torch.ops.aten._fft_c2c: _transform(real=False),
}


class Recurrent(nn.Module):
    """Stands for an LSTM or GRU: the same matrix products, all positions at once; its values mean nothing."""

    def __init__(self, cell: nn.RNNBase):
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, None]:
        if not self.cell.batch_first:
            raise ValueError("a recurrent layer is counted with batch_first=True only")
        for name, weight in self.cell.named_parameters():
            if name.startswith("weight"):
                nn.functional.linear(x.new_zeros(*x.shape[:2], weight.shape[1]), weight)
        return x.new_zeros(*x.shape[:2], self.cell.hidden_size * (1 + self.cell.bidirectional)), None


def forward_flops(model: nn.Module, spec: TaskSpec, longest: int = LONGEST) -> int:
    """Operations on one example (a pair, where the task has pairs) of min(max_len, longest) positions, on the CPU.

    A product and a sum are two. The model itself is left as it is, and so are the random numbers of the run.
    """
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.RNNBase):
                setattr(module, name, Recurrent(child))
        if hasattr(module, "backend"):
            module.backend = "reference"  # type: ignore[assignment]
    rows, length = 2 if spec.paired else 1, min(spec.max_len, longest)
    x: Tensor = torch.ones(rows, length, dtype=torch.int64)
    if spec.vocab_size is None:
        x = torch.zeros(rows, length, spec.channels)
    counter = FlopCounterMode(display=False, custom_mapping=TRANSFORMS)
    # the fused kernels of the CPU are not known to the counter
    with torch.random.fork_rng(devices=[]), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(x, torch.ones(rows, length, dtype=torch.bool))
    return counter.get_total_flops()
