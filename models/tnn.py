"""TNN: a Toeplitz matrix between positions whose entries a small network computes from their distance.

Qin et al. 2023, "Toeplitz Neural Network for Sequence Modeling", arXiv:2305.04749, section 3.

B batch, L length, D model width, E inner width, R width of the network of positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import Dropout, Norm
from lra.ops.fftconv import long_conv


class RelativePositions(nn.Module):
    """Relative position encoder: an MLP of the offset i - j, with an RMS norm without weights and a ReLU between maps.

    n_layers maps of width R to R lie between the first and the last map.
    """

    def __init__(self, n_features: int, *, width: int, n_layers: int):
        super().__init__()
        self.first = nn.Linear(1, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(n_layers))
        self.last = nn.Linear(width, n_features)

    def forward(self, offset: Tensor) -> Tensor:
        """(n,) -> (n, n_features)."""
        h = self.first(offset[:, None])
        for layer in (*self.layers, self.last):
            h = layer(F.relu(F.rms_norm(h, h.shape[-1:], eps=1e-8)))
        return h


class GatedToeplitz(nn.Module):
    """Gated Toeplitz unit: out(u * T v) with T_ij = decay^|i - j| RPE(i - j), O(L log L)."""

    def __init__(self, d_model: int, d_inner: int, decay: float, position_width: int, position_layers: int):
        super().__init__()
        self.decay = decay
        self.maps = nn.Linear(d_model, 2 * d_inner)
        self.out = nn.Linear(d_inner, d_model)
        self.positions = RelativePositions(d_inner, width=position_width, n_layers=position_layers)
        # the authors' initialisation of this unit; their gated linear unit has torch's default
        for layer in (self.maps, self.out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.normal_(layer.bias, std=0.02)

    def kernel(self, length: int) -> Tensor:
        """Entries of T as a two-sided kernel (2, E, L): offsets 0, 1, ... and -1, -2, ..."""
        weight = self.positions.first.weight
        lag = torch.arange(length, device=weight.device, dtype=weight.dtype)
        offset = torch.cat([lag, -1 - lag])
        entries = self.positions(offset) * self.decay ** offset.abs()[:, None]
        return entries.unflatten(0, (2, length)).mT

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        u, v = F.silu(self.maps(x)).chunk(2, dim=-1)
        v = v.masked_fill(~mask[..., None], 0)
        # bf16 cannot count to L
        with torch.autocast(x.device.type, enabled=False):
            kernel = self.kernel(x.shape[1])
        return self.out(u * long_conv(v.mT, kernel).mT)


class Block(nn.Module):
    """x + GTU(norm(x)), then the gated linear unit x + down(silu(a) * b)."""

    def __init__(self, d_model: int, d_glu: int, *, toeplitz: GatedToeplitz, norm: str, dropout: float):
        super().__init__()
        self.norm_mix, self.norm_glu = (Norm(norm, d_model, ragged=True) for _ in range(2))
        self.toeplitz = toeplitz
        self.up = nn.Linear(d_model, 2 * d_glu)
        self.down = nn.Linear(d_glu, d_model)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.dropout(self.toeplitz(self.norm_mix(x, mask), mask))
        a, b = self.up(self.norm_glu(x, mask)).chunk(2, dim=-1)
        return x + self.dropout(self.down(F.silu(a) * b))


class TNN(nn.Module):
    """TNN encoder: pre-norm blocks and a last norm.

    expand, expand_glu  widths of the Toeplitz unit and of the gated linear unit, in D
    decay               lambda of the exponential decay bias, above 0 and at most 1
    position_width      R
    position_layers     maps of width R to R in the network of positions
    norm                of `lra.nn.blocks`
    """

    def __init__(
        self,
        *,
        d_model: int,
        n_layers: int,
        max_len: int,
        dropout: float,
        expand: float = 1.0,
        expand_glu: float = 2.0,
        decay: float = 0.9,
        position_width: int = 32,
        position_layers: int = 3,
        norm: str = "batch",
    ):
        super().__init__()
        if not 0 < decay <= 1:
            raise ValueError(f"decay: {decay} is not in (0, 1]")
        self.blocks = nn.ModuleList()
        for _ in range(n_layers):
            toeplitz = GatedToeplitz(d_model, int(expand * d_model), decay, position_width, position_layers)
            self.blocks.append(Block(d_model, int(expand_glu * d_model), toeplitz=toeplitz, norm=norm, dropout=dropout))
        self.norm = Norm(norm, d_model, ragged=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x, mask)
