"""WaveGAN discriminator as a classifier of signals of one fixed length: a whole model without embedding and blocks.

Donahue et al. 2019 (arXiv:1802.04208), appendix D: five convolutions of kernel 25 and stride 4, leaky ReLU, and one
linear map of everything that is left. The S4 paper's improved version (arXiv:2111.00396, appendix D.2) adds batch norm
and has 26.3 million parameters, which two convolutions in a stage give; its code is not published. No phase shuffle.
B batch, L length, D width.
"""

from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lra.errors import UserError
from lra.nn.batch_norm import BatchNorm
from lra.task import TaskSpec

STRIDE = 4


class Layer(nn.Module):
    """Convolution, zeros beyond both ends; batch norm, leaky ReLU, dropout: (B, L, D) -> (B, ceil(L / stride), D')."""

    def __init__(self, d_input: int, d_output: int, *, kernel_size: int, stride: int, dropout: float):
        super().__init__()
        self.conv = nn.Conv1d(d_input, d_output, kernel_size, stride, bias=False)  # the norm has one
        self.norm = BatchNorm(d_output, ragged=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        (size,), (stride,) = self.conv.kernel_size, self.conv.stride
        # as much padding as TensorFlow's "same", the smaller half in front
        missing = size - stride + -x.shape[1] % stride
        y = self.conv(F.pad(x.transpose(1, 2), (missing // 2, missing - missing // 2))).transpose(1, 2)
        mask = mask[:, ::stride]
        return self.dropout(F.leaky_relu(self.norm(y, mask), 0.2)), mask


class WaveGANDiscriminator(nn.Module):
    """Stages of convolutions; each ends with stride 4 and twice the width, until at most 16 positions are left.

    d_model      width of the last stage; the first of five has d_model / 16
    n_layers     convolutions in each stage after the first, which has one; 1 is the discriminator as published
    kernel_size  of all convolutions, at least 4
    head_hidden  width of a hidden layer before the scores; 0 for none
    raises       UserError for tokens, pairs, inputs of different length, forecasts, and another length than the task's
    """

    def __init__(
        self,
        spec: TaskSpec,
        *,
        d_model: int = 1024,
        n_layers: int = 2,
        kernel_size: int = 25,
        dropout: float = 0.0,
        head_hidden: int = 0,
    ):
        super().__init__()
        if spec.vocab_size is not None or spec.categories or spec.paired or spec.ragged or spec.horizon:
            raise UserError(f"task={spec.name}: WaveGAN-D classifies signals of one length only", hint="task=sc10")
        if kernel_size < STRIDE:
            raise UserError(f"model.kernel_size={kernel_size}: less than the stride", hint=f"at least {STRIDE}")
        n_stages = 1
        while -(-spec.max_len // STRIDE**n_stages) > 16:
            n_stages += 1
        self.fixed_length, left = spec.max_len, -(-spec.max_len // STRIDE**n_stages)
        widths = [max(1, d_model >> i) for i in reversed(range(n_stages))]
        same: dict[str, Any] = {"kernel_size": kernel_size, "dropout": dropout}
        self.layers = nn.ModuleList([Layer(spec.channels, widths[0], stride=STRIDE, **same)])
        for before, after in pairwise(widths):
            self.layers += [Layer(before, before, stride=1, **same) for _ in range(n_layers - 1)]
            self.layers.append(Layer(before, after, stride=STRIDE, **same))
        hidden = [nn.Linear(left * widths[-1], head_hidden), nn.LeakyReLU(0.2)] if head_hidden else []
        self.head = nn.Sequential(*hidden, nn.Linear(head_hidden or left * widths[-1], spec.n_outputs))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, L, channels) -> (B, n_outputs)."""
        if x.shape[1] != self.fixed_length:
            problem = f"input has {x.shape[1]} positions: WaveGAN-D takes {self.fixed_length} only"
            raise UserError(problem, hint="a model such as s4 takes another sampling rate")
        for layer in self.layers:
            x, mask = layer(x, mask)
        return self.head(x.flatten(1))
