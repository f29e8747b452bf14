"""LSTM (long short-term memory) in both directions: a classic baseline.

Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000. Its bias starts at 1, so that the network
does not forget at the start of training.
"""

from torch import nn

from lra.nn.bidirectional import BidirectionalRNN


class LSTM(BidirectionalRNN):
    """f, i, o, g = gates(x_t, h_(t-1));  c_t = f c_(t-1) + i g;  h_t = o tanh(c_t)."""

    layer = nn.LSTM

    def __init__(self, d_model: int, max_len: int, *, d_state: int | None = None, bidirectional: bool = True):
        super().__init__(d_model, max_len, d_state=d_state, bidirectional=bidirectional)
        for direction in (self.forwards, self.backwards):
            if direction is not None:
                # torch orders the gates i, f, g, o and adds two biases
                forget = slice(direction.hidden_size, 2 * direction.hidden_size)
                nn.init.ones_(direction.get_parameter("bias_ih_l0")[forget])
                nn.init.zeros_(direction.get_parameter("bias_hh_l0")[forget])
