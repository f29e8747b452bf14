"""Gated recurrence in both directions, a classic beside the models made for long sequences.

Cho et al. 2014, arXiv:1406.1078, section 2.3, in the variant with the reset gate after the matrix product.
Two directions after Schuster and Paliwal 1997.

B batch, L length, D model width, S width of a direction's state.
"""

import torch
from torch import Tensor, nn

from lra.reversal import reverse


class GRU(nn.Module):
    """A linear map of the states of torch's GRU, run forwards and, from the last real position, backwards.

    d_state        width of each direction's state; by default d_model shared between the directions
    bidirectional  False: forwards only

    r, z = gates(x_t, h_(t-1));  n = tanh(W x_t + r * (U h_(t-1)));  h_t = (1 - z) n + z h_(t-1).
    """

    def __init__(self, d_model: int, max_len: int, *, d_state: int | None = None, bidirectional: bool = True):
        super().__init__()
        directions = 2 if bidirectional else 1
        d_state = d_model // directions if d_state is None else d_state
        self.forwards = nn.GRU(d_model, d_state, batch_first=True)
        self.backwards = nn.GRU(d_model, d_state, batch_first=True) if bidirectional else None
        self.out = nn.Linear(directions * d_state, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x.masked_fill(~mask[..., None], 0)
        h, _ = self.forwards(x)
        if self.backwards is not None:
            # reversed rows need no packing: the padding still comes after everything real, and the device never
            # waits for the lengths
            back, _ = self.backwards(reverse(x, mask))
            h = torch.cat([h, reverse(back, mask)], dim=-1)
        return self.out(h)
