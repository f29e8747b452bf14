"""The GRU against torch's on packed rows, and against its equations."""

import pytest
import torch
from torch import nn

from helpers.packed_rnn import assert_equals_packed
from models.gru import GRU


@pytest.mark.parametrize("bidirectional", [True, False])
def test_equals_packed_torch_gru(bidirectional):
    torch.manual_seed(0)
    ours = GRU(6, 16, d_state=5, bidirectional=bidirectional).double()
    theirs = nn.GRU(6, 5, batch_first=True, bidirectional=bidirectional).double()
    assert_equals_packed(ours, theirs)


def test_obeys_its_equations():
    torch.manual_seed(0)
    model = GRU(4, 16, d_state=3, bidirectional=False).double()
    rnn, x = model.forwards, torch.randn(9, 4, dtype=torch.float64)
    h, states = x.new_zeros(3), []
    for step in x:
        xr, xz, xn = (rnn.weight_ih_l0 @ step + rnn.bias_ih_l0).chunk(3)
        hr, hz, hn = (rnn.weight_hh_l0 @ h + rnn.bias_hh_l0).chunk(3)
        new = (xn + (xr + hr).sigmoid() * hn).tanh()
        h = (1 - (xz + hz).sigmoid()) * new + (xz + hz).sigmoid() * h
        states.append(h)
    actual = model(x[None], torch.ones(1, 9, dtype=torch.bool))
    torch.testing.assert_close(actual[0], model.out(torch.stack(states)))
