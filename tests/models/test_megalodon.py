"""Megalodon against its recurrence and equations."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.comparison import assert_same, by_row, ragged
from models.megalodon import ComplexMovingAverage, Megalodon, SequenceNorm


def build(**arguments) -> Megalodon:
    torch.manual_seed(0)
    sizes = {"d_model": 8, "n_layers": 1, "max_len": 16, "dropout": 0.0, "n_orders": 3, "norm_groups": 2, "n_heads": 2}
    return Megalodon(**(sizes | arguments)).double().eval()


@pytest.mark.parametrize("causal", [False, True])
def test_norm_is_group_norm_of_the_real_positions(causal):
    torch.manual_seed(0)
    norm = SequenceNorm(6, n_groups=2, causal=causal).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)

    def group_norm(row):
        """One row (t, D), over all its positions."""
        return F.group_norm(row.T[None], 2, norm.weight, norm.bias, eps=1e-5)[0].T

    def naive(row):
        return torch.stack([group_norm(row[: t + 1])[-1] for t in range(len(row))]) if causal else group_norm(row)

    x, mask = ragged(6, 9, 5, 1)
    assert_same(norm(x, mask)[mask], by_row(naive, x, mask), [x, norm.weight, norm.bias])


@pytest.mark.parametrize(("options", "causal"), [({}, False), ({"norm": "timestep"}, True)])
def test_only_the_timestep_norm_is_causal(options, causal):
    # appendix C of the paper; the timestep norm is for language models
    assert [m.causal for m in build(**options).modules() if isinstance(m, SequenceNorm)] == [causal, causal]


@pytest.mark.parametrize(("width", "groups"), [(16, 1), (64, 2), (104, 2), (128, 4)])
def test_default_groups_divide_the_width(width, groups):
    assert Megalodon(d_model=width, n_layers=1, max_len=8, dropout=0.0).norm.n_groups == groups


@pytest.mark.parametrize("causal", [False, True])
def test_norm_is_exact_far_from_zero(causal):
    x, mask = 100 + torch.randn(1, 4096, 32), torch.ones(1, 4096, dtype=torch.bool)
    norm = SequenceNorm(32, n_groups=1, causal=causal)
    torch.testing.assert_close(norm(x, mask).double(), norm.double()(x.double(), mask), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_moving_average_obeys_its_recurrence(bidirectional):
    torch.manual_seed(0)
    model = ComplexMovingAverage(3, n_orders=4, bidirectional=bidirectional).double()
    nn.init.normal_(model.gamma)
    x, _ = ragged(3, 11)
    expected = model.omega * x[0]
    alpha, delta = model.alpha.sigmoid(), model.delta.sigmoid()
    angle = model.theta.sigmoid()[..., None] * torch.arange(1, 5) * 2 * math.pi / 4
    q = (1 - alpha * delta) * torch.polar(torch.ones_like(angle), angle)
    gamma = torch.view_as_complex(model.gamma)
    for direction in range(1 + bidirectional):
        h, outputs = torch.zeros_like(q[0]), []
        for u in x[0] if direction == 0 else x[0].flip(0):
            before = h
            h = q[direction] * h + alpha[direction] * u[:, None]
            # from the right, the position itself does not count
            state = h if direction == 0 else q[direction] * before
            outputs.append((gamma[direction] * state).sum(-1).real / 2)
        outputs = torch.stack(outputs)
        expected = expected + (outputs if direction == 0 else outputs.flip(0))
    assert_same(model(x)[0], expected, [x, *model.parameters()])


@pytest.mark.parametrize("chunk", [None, 4])
def test_block_obeys_its_equations(chunk):
    block = build(chunk=chunk).blocks[0]
    layer = block.attention
    for p in (layer.scale, layer.shift):
        nn.init.normal_(p)

    def naive(x):
        h = block.norm(x[None], torch.ones(1, len(x), dtype=torch.bool))[0]
        z, reset, bypass = layer.maps(layer.norm(layer.average(h[None])[0])).split([4, 16, 8], dim=-1)
        heads = []
        for head in range(2):
            part = slice(2 * head, 2 * head + 2)
            unit = z[:, part] / (z[:, part].square().sum(-1, keepdim=True) + 2e-5).sqrt()
            # two features are one complex number
            q, k = (torch.view_as_complex(unit * layer.scale[i, part] + layer.shift[i, part]) for i in (0, 1))
            v, rows = F.silu(layer.value(h))[:, 8 * head : 8 * head + 8], []
            for t in range(len(x)):
                start = 0 if chunk is None else t // chunk * chunk
                end = len(x) if chunk is None else min(start + chunk, len(x))
                # rotated by one radian per position
                rotation = torch.polar(torch.ones(end - start), t - torch.arange(start, end, dtype=torch.float32))
                rows.append((q[t] * rotation.to(q.dtype) * k[start:end].conj()).real.softmax(0) @ v[start:end])
            heads.append(torch.stack(rows))
        y = bypass + layer.out(torch.cat(heads, -1) * F.silu(reset))
        return x + block.feed(x + y)

    x, mask = ragged(8, 11, 6, 1)
    assert_same(block(x, mask)[mask], by_row(naive, x, mask), [x], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"norm_groups": 3}, "norm_groups: 3"), ({"n_heads": 3}, "n_heads: 3"), ({"norm": "layer"}, "norm: 'layer'")],
)
def test_bad_options_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        build(**arguments)
