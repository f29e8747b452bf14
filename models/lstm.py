"""Long short-term memory: recurrence in both directions, a classic beside the models made for long sequences.

Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000, whose bias starts at 1 so that a new
network remembers.
Two directions after Schuster and Paliwal 1997.

B batch, L length, D model width, S width of a direction's state.
"""

import torch
from torch import Tensor, nn

from lra.reversal import reverse


class LSTM(nn.Module):
    """A linear map of the states of torch's LSTM, run forwards and, from the last real position, backwards.

    d_state        width of each direction's state; by default d_model shared between the directions
    bidirectional  False: forwards only

    f, i, o, g = gates(x_t, h_(t-1));  c_t = f c_(t-1) + i g;  h_t = o tanh(c_t).
    """

    def __init__(self, d_model: int, max_len: int, *, d_state: int | None = None, bidirectional: bool = True):
        super().__init__()
        directions = 2 if bidirectional else 1
        d_state = d_model // directions if d_state is None else d_state
        self.forwards = nn.LSTM(d_model, d_state, batch_first=True)
        self.backwards = nn.LSTM(d_model, d_state, batch_first=True) if bidirectional else None
        self.out = nn.Linear(directions * d_state, d_model)
        for direction in (self.forwards, self.backwards):
            if direction is not None:
                # torch orders the gates i, f, g, o and adds two biases
                nn.init.ones_(direction.bias_ih_l0[d_state : 2 * d_state])
                nn.init.zeros_(direction.bias_hh_l0[d_state : 2 * d_state])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x.masked_fill(~mask[..., None], 0)
        h, _ = self.forwards(x)
        if self.backwards is not None:
            # reversed rows need no packing: the padding still comes after everything real, and the device never
            # waits for the lengths
            back, _ = self.backwards(reverse(x, mask))
            h = torch.cat([h, reverse(back, mask)], dim=-1)
        return self.out(h)
