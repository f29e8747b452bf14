"""Dilated CNN: WaveNet with centred instead of causal convolutions, as an encoder for classification.

van den Oord et al. 2016, arXiv:1609.03499, sections 2.1 (dilations 1, 2, 4, ..., repeated), 2.3 (gated units) and 2.4
(residual and skip connections).

B batch, L length, D model width.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn


class Gate(nn.Module):
    """Equation 2: dropout(tanh(W_f * x) sigmoid(W_g * x)) with dilated, centred convolutions."""

    def __init__(self, d_model: int, *, kernel_size: int, dilation: int, dropout: float):
        super().__init__()
        reach = dilation * (kernel_size - 1) // 2
        self.conv = nn.Conv1d(d_model, 2 * d_model, kernel_size, dilation=dilation, padding=reach)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        # padding is zero as the convolution assumes beyond the end
        x = x.masked_fill(~mask[..., None], 0)
        value, gate = self.conv(x.transpose(1, 2)).transpose(1, 2).chunk(2, dim=-1)
        return self.dropout(value.tanh() * gate.sigmoid())


class DilatedCNN(nn.Module):
    """WaveNet encoder (figure 4); its output is a linear map of the summed skip connections.

    n_layers     gates, but at least one cycle of doubling dilations, after which the centre of max_len sees both ends;
                 more gates begin the next cycle
    kernel_size  odd, so that a neighbourhood has a centre
    """

    def __init__(self, *, d_model: int, n_layers: int, max_len: int, dropout: float, kernel_size: int = 3):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: {kernel_size} is even; hint: a symmetric neighbourhood needs an odd size")
        cycle = max(1, math.ceil(math.log2(max_len + 2)) - 1)
        n_gates = max(n_layers, cycle)
        self.gates = nn.ModuleList(
            Gate(d_model, kernel_size=kernel_size, dilation=2 ** (i % cycle), dropout=dropout) for i in range(n_gates)
        )
        # a residual after the last gate would be unused
        self.residuals = nn.ModuleList(nn.Linear(d_model, d_model) for _ in range(n_gates - 1))
        self.skips = nn.ModuleList(nn.Linear(d_model, d_model) for _ in range(n_gates))
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        z = self.gates[0](x, mask)
        total = self.skips[0](z)
        for residual, gate, skip in zip(self.residuals, self.gates[1:], self.skips[1:], strict=True):
            x = x + residual(z)
            z = gate(x, mask)
            total = total + skip(z)
        return self.out(F.relu(total))
