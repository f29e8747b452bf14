import pytest
import torch

from models.long_conv import LongConv, initial_kernel


def build(**arguments) -> LongConv:
    torch.manual_seed(0)
    return LongConv(4, 16, **({"squash": 0.001} | arguments)).double().eval()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_a_loop_over_taps(bidirectional):
    model = build(bidirectional=bidirectional)
    x = torch.randn(3, 12, 4, dtype=torch.float64, requires_grad=True)
    lengths = (12, 5, 1)
    mask = torch.arange(12) < torch.tensor(lengths)[:, None]
    taps = model.kernel.sign() * (model.kernel.abs() - 0.001).clamp(min=0)  # (K, 8, 16)
    expected = []
    for row, length in enumerate(lengths):
        u = torch.cat([x[row, :length]] * 2, dim=-1)
        y = []
        for t in range(length):
            terms = [model.D * u[t]]
            terms += [taps[0, :, t - s] * u[s] for s in range(t + 1)]
            terms += [taps[1, :, s - t - 1] * u[s] for s in range(t + 1, length) if bidirectional]
            y.append(sum(terms))
        value, gate = model.out(torch.nn.functional.gelu(torch.stack(y))).chunk(2, dim=-1)
        expected.append(value * gate.sigmoid())
    actual, expected = model(x, mask)[mask], torch.cat(expected)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(actual)
    inputs = (x, model.kernel, model.D)
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), inputs) for y in (actual, expected)))


def test_dropout_of_the_kernel_is_for_training_only():
    model = build(kernel_dropout=0.5)
    x, mask = torch.randn(1, 12, 4, dtype=torch.float64), torch.ones(1, 12, dtype=torch.bool)
    assert torch.equal(model(x, mask), model(x, mask))
    model.train()
    assert not torch.equal(model(x, mask), model(x, mask))


def test_geometric_kernels_decay_at_rates_from_slow_to_fast():
    torch.manual_seed(0)
    kernel = initial_kernel("geometric", 1, 64, 4096)[0]
    early, late = kernel[:, :1024].std(1), kernel[:, -1024:].std(1)
    decay = early / late
    assert decay[0] == pytest.approx(2.0, rel=0.2)
    assert decay[32] > 10 * decay[0]


def test_the_kernels_of_a_feature_start_at_its_rate():
    torch.manual_seed(0)
    kernel = LongConv(64, 4096, channels=2, bidirectional=True, init="geometric").kernel.detach()
    decay = kernel[..., :1024].std(-1) / kernel[..., -1024:].std(-1)  # (2, 2 * 64)
    for channel in decay.view(4, 64):
        assert channel[0].item() == pytest.approx(2.0, rel=0.2)
        assert channel[32] > 10 * channel[0]


def test_an_unknown_init_is_refused():
    with pytest.raises(ValueError, match="init: 'zeros'"):
        build(init="zeros")
