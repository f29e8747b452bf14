"""Long Conv against a loop over taps."""

import pytest
import torch
import torch.nn.functional as F

from helpers.comparison import assert_same, by_row, convolve, ragged
from models.long_conv import LongConv, initial_kernel


def build(**arguments) -> LongConv:
    torch.manual_seed(0)
    return LongConv(4, 16, **({"squash": 0.001} | arguments)).double().eval()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_a_loop_over_taps(bidirectional):
    model = build(bidirectional=bidirectional)
    taps = model.kernel.sign() * (model.kernel.abs() - 0.001).clamp(min=0)  # (K, 8, 16)

    def loop(row):
        value, gate = model.out(F.gelu(convolve(row.repeat(1, 2), taps, model.D))).chunk(2, dim=-1)
        return value * gate.sigmoid()

    x, mask = ragged(4, 12, 5, 1)
    assert_same(model(x, mask)[mask], by_row(loop, x, mask), [x, *model.parameters()])


def test_kernel_dropout_acts_only_in_training():
    model, (x, mask) = build(kernel_dropout=0.5), ragged(4, 12)
    assert torch.equal(model(x, mask), model(x, mask))
    model.train()
    assert not torch.equal(model(x, mask), model(x, mask))


def test_geometric_kernels_decay_from_slow_to_fast():
    torch.manual_seed(0)
    single = initial_kernel("geometric", 1, 64, 4096)[0]
    kernels = LongConv(64, 4096, channels=2, bidirectional=True, init="geometric").kernel.detach().view(4, 64, 4096)
    for kernel in (single, *kernels):
        decay = kernel[:, :1024].std(1) / kernel[:, -1024:].std(1)
        assert decay[0] == pytest.approx(2.0, rel=0.2)
        assert decay[32] > 10 * decay[0]


def test_unknown_init_is_refused():
    with pytest.raises(ValueError, match="init: 'zeros'"):
        build(init="zeros")
