"""TNN against a dense Toeplitz matrix."""

import pytest
import torch

from helpers.comparison import assert_same, by_row, ragged
from models.tnn import TNN


def build(**arguments) -> TNN:
    torch.manual_seed(0)
    sizes = {"d_model": 4, "n_layers": 1, "max_len": 16, "dropout": 0.0, "norm": "layer", "position_width": 8}
    return TNN(**(sizes | arguments)).double().eval()


@pytest.mark.parametrize("decay", [1.0, 0.8])
@pytest.mark.parametrize("position_layers", [0, 2])
def test_equals_the_dense_toeplitz_matrix(decay, position_layers):
    unit = build(decay=decay, position_layers=position_layers, expand=1.5).blocks[0].toeplitz

    def naive(row):
        u, v = (part * part.sigmoid() for part in unit.maps(row).chunk(2, dim=-1))
        y = []
        for i in range(len(row)):
            total = 0.0
            for j in range(len(row)):
                h = unit.positions.first.weight[:, 0] * (i - j) + unit.positions.first.bias
                for layer in [*unit.positions.layers, unit.positions.last]:
                    h = layer((h / h.square().mean().sqrt()).clamp(min=0))
                total = total + decay ** abs(i - j) * h * v[j]
            y.append(total)
        return unit.out(u * torch.stack(y))

    x, mask = ragged(4, 11, 6, 1)
    expected = by_row(naive, x, mask)
    assert_same(unit(x, mask)[mask], expected, [x, *unit.parameters()], rtol=1e-6, atol=1e-8)


def test_decay_weakens_far_positions():
    near, far = build(decay=1.0).blocks[0].toeplitz, build(decay=0.5).blocks[0].toeplitz
    lags = torch.cat([torch.arange(6), 1 + torch.arange(6)]).view(2, 1, 6)
    torch.testing.assert_close(far.kernel(6), near.kernel(6) * 0.5**lags)


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        build(decay=decay)


def test_only_the_toeplitz_unit_starts_small():
    torch.manual_seed(0)
    block = TNN(d_model=128, n_layers=1, max_len=16, dropout=0.0).blocks[0]
    for layer in (block.toeplitz.maps, block.toeplitz.out):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert layer.bias.std().item() == pytest.approx(0.02, rel=0.3)
    for layer in (block.up, block.down):
        assert layer.weight.std().item() == pytest.approx((3 * layer.in_features) ** -0.5, rel=0.1)
