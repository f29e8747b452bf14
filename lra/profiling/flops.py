"""Floating-point operations of a forward pass: matrix products, convolutions, attention and Fourier transforms.

Not counted: element-wise work (including scans and gates) and kernels that are not PyTorch operators. Products of
complex numbers count like those of real ones.
"""

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lra.ops.fftconv import only_torch
from lra.task import TaskSpec

LONGEST = 1024
Model = TypeVar("Model", bound=nn.Module)


def _fft_flops(real: bool):
    def count(x: tuple, dim: list[int], *arguments, out_shape: tuple, **named) -> int:
        # 5 n log2 n for n complex numbers, half of it for real ones
        shape = x if math.prod(x) >= math.prod(out_shape) else out_shape
        n = math.prod(shape[d] for d in dim)
        return round((2.5 if real else 5) * math.prod(shape) * math.log2(max(2, n)))

    return count


FFT_FLOPS = {
    torch.ops.aten._fft_r2c: _fft_flops(real=True),
    torch.ops.aten._fft_c2r: _fft_flops(real=True),
    torch.ops.aten._fft_c2c: _fft_flops(real=False),
}


class RNNFlopsStub(nn.Module):
    """Replaces an LSTM or GRU for counting: the same matrix products for all positions at once, meaningless values."""

    def __init__(self, rnn: nn.RNNBase):
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        if not self.rnn.batch_first:
            raise ValueError("FLOPs of a recurrent layer are counted with batch_first=True only")
        for name, weight in self.rnn.named_parameters():
            if name.startswith("weight"):
                nn.functional.linear(x.new_zeros(*x.shape[:2], weight.shape[1]), weight)
        directions = 1 + self.rnn.bidirectional
        last = x.new_zeros(self.rnn.num_layers * directions, len(x), self.rnn.hidden_size)
        is_lstm = isinstance(self.rnn, nn.LSTM)
        return x.new_zeros(*x.shape[:2], directions * self.rnn.hidden_size), (last, last) if is_lstm else last


def reference_copy(model: Model) -> Model:
    """A copy of the model on the CPU, in eval mode, with the reference kernels."""
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    for module in model.modules():
        if hasattr(module, "backend"):
            module.backend = "reference"  # type: ignore[assignment]
    return model


def forward_flops(model: nn.Module, spec: TaskSpec, longest: int = LONGEST) -> int:
    """Operations on one example (or pair) of min(max_len, longest) positions, counted on the CPU.

    A model with the attribute `fixed_length` is counted at max_len. A multiply-add is two operations. Neither the model
    nor the state of the random generators changes.
    """
    model = reference_copy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.RNNBase):
                setattr(module, name, RNNFlopsStub(child))
    fixed = hasattr(model, "fixed_length")
    rows, length = 2 if spec.paired else 1, spec.max_len if fixed else min(spec.max_len, longest)
    x: Tensor = torch.ones(rows, length, dtype=torch.int64)
    if spec.vocab_size is None:
        x = torch.zeros(rows, length, spec.width)
    counter = FlopCounterMode(display=False, custom_mapping=FFT_FLOPS)
    # FlopCounterMode does not know the fused attention kernels of the CPU
    with torch.random.fork_rng(devices=[]), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), only_torch(), counter:
        model(x, torch.ones(rows, length, dtype=torch.bool))
    return counter.get_total_flops()
