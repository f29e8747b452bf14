import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.lstm import LSTM


@pytest.mark.parametrize("bidirectional", [True, False])
def test_equals_packed_torch_lstm(bidirectional):
    torch.manual_seed(0)
    ours = LSTM(6, 16, d_state=5, bidirectional=bidirectional).double()
    theirs = nn.LSTM(6, 5, batch_first=True, bidirectional=bidirectional).double()
    weights = dict(ours.forwards.state_dict())
    if bidirectional:
        weights |= {name + "_reverse": p for name, p in ours.backwards.state_dict().items()}
    theirs.load_state_dict(weights)
    lengths = torch.tensor([13, 7, 1])
    mask = torch.arange(13) < lengths[:, None]
    x = torch.randn(3, 13, 6, dtype=torch.float64, requires_grad=True)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected = ours.out(pad_packed_sequence(theirs(packed)[0], batch_first=True)[0])[mask]
    actual = ours(x, mask)[mask]
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(actual)
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), x)[0] for y in (actual, expected)))


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


def test_a_new_network_remembers():
    model = LSTM(6, 16, d_state=5)
    for direction in (model.forwards, model.backwards):
        assert torch.equal((direction.bias_ih_l0 + direction.bias_hh_l0)[5:10], torch.ones(5))
