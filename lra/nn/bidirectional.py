"""Bidirectional LSTM or GRU over padded sequences (Schuster and Paliwal 1997).

B batch, L length, D model width, S width of one direction's state.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lra.nn.blocks import require_causal
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

    @property
    def causal(self) -> bool:
        return self.backwards is None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, D), mask (B, L) True where real -> (B, L, D)."""
        x = x.masked_fill(~mask[..., None], 0)
        h = states(self.forwards, x)[0]
        if self.backwards is not None:
            # padding stays last in a reversed row: no packing, which would make the device wait for the lengths
            h = torch.cat([h, reverse(states(self.backwards, reverse(x, mask))[0], mask)], dim=-1)
        return self.out(h)

    def default_state(self, batch: int) -> tuple[Tensor, ...]:
        """Zeros (B, S): h, and c of an LSTM."""
        h = self.out.weight.new_zeros(batch, self.forwards.hidden_size)
        return (h, torch.zeros_like(h)) if isinstance(self.forwards, nn.LSTM) else (h,)

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        require_causal(self, "bidirectional=False")
        h, state = states(self.forwards, x[:, None], state)
        return self.out(h[:, 0]), state

    def prefill(
        self, x: Tensor, mask: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        require_causal(self, "bidirectional=False")
        state = self.default_state(len(x)) if state is None else state
        rows = mask.any(1)  # packing takes no empty rows
        h = x.new_zeros(*mask.shape, self.forwards.hidden_size, dtype=state[0].dtype)
        if not rows.any():
            return self.out(h), state
        lengths = mask[rows].sum(1).cpu()
        packed = pack_padded_sequence(x[rows], lengths, batch_first=True, enforce_sorted=False)
        packed, last = states(self.forwards, packed, tuple(part[rows] for part in state))
        h[rows] = pad_packed_sequence(packed, batch_first=True, total_length=mask.shape[1])[0]
        after = tuple(part.index_put((rows,), new) for part, new in zip(state, last, strict=True))
        return self.out(h), after


def states(layer: Any, x: Any, initial: tuple[Tensor, ...] | None = None) -> tuple[Any, tuple[Tensor, ...]]:
    """The states at all positions (B, L, S) of x (B, L, D), packed if x is, and the last state: h, and c of an LSTM.

    On a CPU the recurrence uses the dtype of its weights even under autocast, because oneDNN has no LSTM in bfloat16 or
    float16 for processors without such instructions.
    """
    before: Any = None if initial is None else tuple(part[None] for part in initial)
    if before is not None and len(before) == 1:
        before = before[0]
    data = x.data if isinstance(x, PackedSequence) else x
    if data.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            h, last = layer(x.to(next(layer.parameters()).dtype), before)
    else:
        h, last = layer(x, before)
    return h, tuple(part[0] for part in (last if isinstance(last, tuple) else (last,)))
