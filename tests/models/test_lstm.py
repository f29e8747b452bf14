"""The LSTM against torch's on packed rows, and against its equations."""

import pytest
import torch
from torch import nn

from helpers.packed_rnn import assert_equals_packed
from models.lstm import LSTM


@pytest.mark.parametrize("bidirectional", [True, False])
def test_equals_packed_torch_lstm(bidirectional):
    torch.manual_seed(0)
    ours = LSTM(6, 16, d_state=5, bidirectional=bidirectional).double()
    theirs = nn.LSTM(6, 5, batch_first=True, bidirectional=bidirectional).double()
    assert_equals_packed(ours, theirs)


def test_obeys_its_equations():
    torch.manual_seed(0)
    model = LSTM(4, 16, d_state=3, bidirectional=False).double()
    rnn, x = model.forwards, torch.randn(9, 4, dtype=torch.float64)
    h = c = x.new_zeros(3)
    states = []
    for step in x:
        i, f, g, o = (rnn.weight_ih_l0 @ step + rnn.bias_ih_l0 + rnn.weight_hh_l0 @ h + rnn.bias_hh_l0).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
    actual = model(x[None], torch.ones(1, 9, dtype=torch.bool))
    torch.testing.assert_close(actual[0], model.out(torch.stack(states)))


def test_forget_gates_start_with_bias_one():
    model = LSTM(6, 16, d_state=5)
    for direction in (model.forwards, model.backwards):
        assert torch.equal((direction.bias_ih_l0 + direction.bias_hh_l0)[5:10], torch.ones(5))
