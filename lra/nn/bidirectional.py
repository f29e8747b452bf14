"""Bidirectional LSTM or GRU over padded sequences (Schuster and Paliwal 1997).

B batch, L length, D model width, S width of one direction's state.
"""

import torch
from torch import Tensor, nn

from lra.ops.padding import reverse


class BidirectionalRNN(nn.Module):
    """A linear map of the states of a forward layer and of one that starts at the last real position.

    layer          nn.LSTM or nn.GRU
    d_state        S; default: d_model divided by the number of directions
    bidirectional  False: forward only
    """

    layer: type[nn.LSTM] | type[nn.GRU]

    def __init__(self, d_model: int, max_len: int, *, d_state: int | None = None, bidirectional: bool = True):
        super().__init__()
        directions = 2 if bidirectional else 1
        d_state = d_model // directions if d_state is None else d_state
        self.forwards = self.layer(d_model, d_state, batch_first=True)
        self.backwards = self.layer(d_model, d_state, batch_first=True) if bidirectional else None
        self.out = nn.Linear(directions * d_state, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, D), mask (B, L) True where real -> (B, L, D)."""
        x = x.masked_fill(~mask[..., None], 0)
        h = states(self.forwards, x)
        if self.backwards is not None:
            # padding stays last in a reversed row: no packing, which would make the device wait for the lengths
            h = torch.cat([h, reverse(states(self.backwards, reverse(x, mask)), mask)], dim=-1)
        return self.out(h)


def states(layer: nn.Module, x: Tensor) -> Tensor:
    """The states at all positions (B, L, S).

    On a CPU the recurrence uses the dtype of its weights even under autocast, because oneDNN has no LSTM in bfloat16 or
    float16 for processors without such instructions.
    """
    if x.device.type != "cpu":
        return layer(x)[0]
    with torch.autocast("cpu", enabled=False):
        return layer(x.to(next(layer.parameters()).dtype))[0]
