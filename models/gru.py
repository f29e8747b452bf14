"""GRU, a gated recurrent network, in both directions: a classic baseline.

Cho et al. 2014, arXiv:1406.1078, section 2.3, in torch's variant with the reset gate after the matrix product.
"""

from torch import nn

from lra.nn.bidirectional import BidirectionalRNN


class GRU(BidirectionalRNN):
    """r, z = gates(x_t, h_(t-1));  n = tanh(W x_t + r * (U h_(t-1)));  h_t = (1 - z) n + z h_(t-1)."""

    layer = nn.GRU
