"""Comparison of a recurrent layer with PyTorch's own on packed sequences."""

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def assert_equals_packed(ours, theirs):
    """Compare values at real positions and the input gradient, with our weights copied into PyTorch's layer.

    ours    a layer of models/gru.py or models/lstm.py, 6 features wide
    theirs  nn.GRU or nn.LSTM of the same sizes
    """
    weights = dict(ours.forwards.state_dict())
    if theirs.bidirectional:
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
