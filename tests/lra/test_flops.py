import math

import torch
from torch import nn

from lra.flops import forward_flops
from lra.task import TaskSpec

L, D = 64, 8


class Work(nn.Module):
    """Stands for a whole model: some work on its inputs."""

    def __init__(self, work=None, layer: nn.Module | None = None):
        super().__init__()
        self.work, self.layer = work, layer

    def forward(self, x, mask):
        assert not self.training
        return self.work(x) if self.layer is None else self.layer(x)


def flops(net: nn.Module, *, max_len: int = L, paired: bool = False) -> int:
    return forward_flops(net, TaskSpec("test", max_len, 2, None, channels=D, paired=paired))


def test_a_matrix_product_is_two_operations_a_weight():
    net = Work(layer=nn.Linear(D, 5))
    assert flops(net) == 2 * L * D * 5
    assert flops(net, paired=True) == 2 * flops(net)
    # longer inputs are counted at 1024 positions
    assert flops(net, max_len=5000) == 2 * 1024 * D * 5


def test_attention_is_counted():
    def attend(x):
        return nn.functional.scaled_dot_product_attention(x, x, x)

    assert flops(Work(attend)) == 2 * (2 * L * L * D)


def test_fourier_transforms_are_counted():
    def there_and_back(x):
        return torch.fft.irfft(torch.fft.rfft(x.mT, n=2 * L), n=2 * L)

    assert flops(Work(there_and_back)) == 2 * round(2.5 * D * 2 * L * math.log2(2 * L))
    assert flops(Work(lambda x: torch.fft.fft(x.mT.to(torch.complex64)))) == round(5 * D * L * math.log2(L))


def test_recurrent_layers_are_counted():
    for kind, gates in ((nn.GRU, 3), (nn.LSTM, 4)):
        net = Work(layer=kind(D, 6, batch_first=True))
        assert flops(net) == 2 * L * gates * 6 * (D + 6)


def test_the_run_is_not_disturbed():
    net = Work(layer=nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(L))).train()
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    flops(net)
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
