"""A recurrent layer one position at a time, for tests that it gives what it gives a whole sequence."""

import torch


def stepped(layer, x):
    """What the layer gives for x (B, L, D), position by position, from its first state on."""
    layer.setup_step()
    state, y = layer.default_state(len(x)), []
    for position in x.unbind(1):
        out, state = layer.step(position, state)
        y.append(out)
    return torch.stack(y, 1)
