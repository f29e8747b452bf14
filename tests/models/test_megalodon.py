import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.megalodon import ComplexMovingAverage, Megalodon, SequenceNorm


def build(**arguments) -> Megalodon:
    torch.manual_seed(0)
    sizes = {"d_model": 8, "n_layers": 1, "max_len": 16, "dropout": 0.0, "n_orders": 3, "norm_groups": 2, "n_heads": 2}
    return Megalodon(**(sizes | arguments)).double().eval()


def same_gradients(actual: torch.Tensor, expected: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> None:
    weight = torch.randn_like(actual)
    grads = [torch.autograd.grad((y * weight).sum(), inputs, allow_unused=True) for y in (actual, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("causal", [False, True])
def test_the_norm_is_group_norm_of_what_is_real(causal):
    torch.manual_seed(0)
    norm = SequenceNorm(6, n_groups=2, causal=causal).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(3, 9, 6, dtype=torch.float64, requires_grad=True)
    lengths = (9, 5, 1)
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]

    def group_norm(part: torch.Tensor) -> torch.Tensor:
        """Of one row (t, D), over all its positions."""
        return F.group_norm(part.T[None], 2, norm.weight, norm.bias, eps=1e-5)[0].T

    expected = []
    for row, length in zip(x, lengths, strict=True):
        past = [group_norm(row[: t + 1])[-1] for t in range(length)]
        expected.append(torch.stack(past) if causal else group_norm(row[:length]))
    actual, expected = norm(x, mask)[mask], torch.cat(expected)
    torch.testing.assert_close(actual, expected)
    same_gradients(actual, expected, (x, norm.weight, norm.bias))


def test_norms_take_all_positions_for_classification():
    # appendix C of the paper; the timestep norm is for language models
    model = build()
    assert [m.causal for m in model.modules() if isinstance(m, SequenceNorm)] == [False, False]
    model = build(norm="timestep")
    assert [m.causal for m in model.modules() if isinstance(m, SequenceNorm)] == [True, True]


@pytest.mark.parametrize(("width", "groups"), [(16, 1), (64, 2), (104, 2), (128, 4)])
def test_groups_divide_any_width(width, groups):
    model = Megalodon(d_model=width, n_layers=1, max_len=8, dropout=0.0)
    assert model.norm.n_groups == groups


@pytest.mark.parametrize("causal", [False, True])
def test_the_norm_is_exact_far_from_zero(causal):
    x, mask = 100 + torch.randn(1, 4096, 32), torch.ones(1, 4096, dtype=torch.bool)
    norm = SequenceNorm(32, n_groups=1, causal=causal)
    torch.testing.assert_close(norm(x, mask).double(), norm.double()(x.double(), mask), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_moving_average_obeys_its_recurrence(bidirectional):
    torch.manual_seed(0)
    model = ComplexMovingAverage(3, n_orders=4, bidirectional=bidirectional).double()
    nn.init.normal_(model.gamma)
    x = torch.randn(1, 11, 3, dtype=torch.float64, requires_grad=True)
    expected = model.omega * x[0]
    alpha, delta = model.alpha.sigmoid(), model.delta.sigmoid()
    angle = model.theta.sigmoid()[..., None] * torch.arange(1, 5) * 2 * math.pi / 4
    q = (1 - alpha * delta) * torch.polar(torch.ones_like(angle), angle)
    gamma = torch.view_as_complex(model.gamma)
    for direction in range(1 + bidirectional):
        h, reads = torch.zeros_like(q[0]), []
        for given in x[0] if direction == 0 else x[0].flip(0):
            before = h
            h = q[direction] * h + alpha[direction] * given[:, None]
            # from the right, a position hears of those beyond it
            heard = h if direction == 0 else q[direction] * before
            reads.append((gamma[direction] * heard).sum(-1).real / 2)
        reads = torch.stack(reads)
        expected = expected + (reads if direction == 0 else reads.flip(0))
    actual = model(x)[0]
    torch.testing.assert_close(actual, expected)
    same_gradients(actual, expected, (x, *model.parameters()))


@pytest.mark.parametrize("chunk", [None, 4])
def test_a_block_obeys_its_equations(chunk):
    model = build(chunk=chunk)
    block = model.blocks[0]
    layer = block.attention
    for p in (layer.scale, layer.shift):
        nn.init.normal_(p)
    x = torch.randn(3, 11, 8, dtype=torch.float64, requires_grad=True)
    lengths = (11, 6, 1)
    mask = torch.arange(11) < torch.tensor(lengths)[:, None]
    expected = []
    for row, length in enumerate(lengths):
        given = x[row, :length]
        h = block.norm(given[None], mask[row : row + 1, :length])[0]
        z, reset, bypass = layer.maps(layer.norm(layer.average(h[None])[0])).split([4, 16, 8], dim=-1)
        heads = []
        for head in range(2):
            part = z[:, 2 * head : 2 * head + 2]
            part = part / (part.square().sum(-1, keepdim=True) + 2e-5).sqrt()
            q, k = (
                part * layer.scale[i, 2 * head : 2 * head + 2] + layer.shift[i, 2 * head : 2 * head + 2] for i in (0, 1)
            )
            v = F.silu(layer.value(h))[:, 8 * head : 8 * head + 8]
            rows = []
            for t in range(length):
                start = 0 if chunk is None else t // chunk * chunk
                end = length if chunk is None else min(start + chunk, length)
                scores = []
                for s in range(start, end):
                    # two features are one complex number, turned by one radian a position
                    turned = torch.polar(torch.tensor(1.0), torch.tensor(float(t - s))).to(torch.complex128)
                    pair = (
                        torch.view_as_complex(q[t].contiguous())
                        * turned
                        * torch.view_as_complex(k[s].contiguous()).conj()
                    )
                    scores.append(pair.real)
                rows.append(torch.stack(scores).softmax(0) @ v[start:end])
            heads.append(torch.stack(rows))
        y = bypass + layer.out(torch.cat(heads, -1) * F.silu(reset))
        expected.append(given + block.feed(given + y))
    actual, expected = block(x, mask)[mask], torch.cat(expected)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
    weight = torch.randn_like(actual)
    grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (actual, expected)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"norm_groups": 3}, "norm_groups: 3"), ({"n_heads": 3}, "n_heads: 3"), ({"norm": "layer"}, "norm: 'layer'")],
)
def test_what_does_not_fit_is_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        build(**arguments)
