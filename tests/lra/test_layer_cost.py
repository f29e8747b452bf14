"""The measurement of a layer, and the table it fills."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lra.layer_cost import layer_cost, lssl_table, peak_bytes
from lra.published import load_published

ROOT = Path(__file__).resolve().parents[2]


class Hoard(nn.Module):
    """Holds a square of the given side for the backward."""

    def __init__(self, side: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(side, side))

    def forward(self, x, mask):
        return x * self.weight.exp().mean()


def test_peak_counts_what_is_held_at_one_time():
    def work():
        a = torch.ones(1000, 1000)
        b = a + 1
        del a
        b.add_(1)
        c = b * 2
        del b, c

    assert peak_bytes(work, torch.device("cpu")) == pytest.approx(2 * 4e6, rel=0.05)


def test_memory_grows_with_what_the_backward_needs():
    small, large = (layer_cost(Hoard(side), 1, 4, 8, repeats=1) for side in (500, 1000))
    assert large.megabytes / small.megabytes == pytest.approx(4, rel=0.1)
    # the parameter, its exponential, and the gradients of both
    assert 8 < large.megabytes < 20
    assert large.milliseconds > 0


def test_cells_stand_where_the_paper_has_them():
    layers = {"LSSL": lambda width, length: Hoard(2 * width), "S4": lambda width, length: Hoard(width)}
    figures = lssl_table(layers, [128, 256, 512], batch=1, length=4, device="cpu", repeats=1)
    published = load_published(ROOT / "results/published").quantities
    assert {(f.row, f.column, f.unit) for f in figures} == {
        (q.row, q.column, q.unit) for q in published if q.table == "S4 Table 2"
    }
    ratio = next(f for f in figures if f.row == "Ratio" and f.column == "memory, dim 512")
    assert ratio.value == pytest.approx(4, rel=0.1)
