"""Parameter counts, and the width that fits the Transformer's."""

import pytest
import torch
from torch import nn

from lra.profiling.parameters import TooLarge, count_built, fitting_width


def square(width: int) -> int:
    return width * width


def test_nearest_width_is_chosen():
    assert fitting_width(square, 64 * 64) == 64
    # 72 would be 27 % more, 64 is 5 % less
    assert fitting_width(square, 4300) == 64
    # 104 * 104 is 3 % more and nearer than 96 * 96
    assert fitting_width(square, 10500) == 104


@pytest.mark.parametrize("reference", [90, 1000, 12345, 10**6, 10**7])
def test_no_other_width_fits_better(reference):
    chosen = fitting_width(square, reference)
    allowed = [w for w in range(8, 5000, 8) if square(w) <= 1.1 * reference]
    assert abs(square(chosen) - reference) == min(abs(square(w) - reference) for w in allowed)


@pytest.mark.parametrize(("constant", "most"), [(0, 10), (900_000, 16)])
def test_few_widths_are_tried(constant, most):
    tried = set()

    def count_at(width: int) -> int:
        tried.add(width)
        return constant + 3 * width + width * width

    assert fitting_width(count_at, 1_000_000) in (312, 320, 992, 1000)
    assert len(tried) <= most


def test_size_independent_of_width_is_refused():
    with pytest.raises(ValueError, match="hardly more"):
        fitting_width(lambda width: 100, 1000)


def test_only_accepted_widths_are_chosen():
    def count_at(width: int) -> int:
        if width % 32:
            raise ValueError("32")
        return square(width)

    assert fitting_width(count_at, 40 * 40) == 32

    def never(width: int) -> int:
        raise ValueError("17 heads do not divide it")

    with pytest.raises(ValueError, match="accepts no width that was tried: 17 heads"):
        fitting_width(never, 1000)


def test_too_large_model_is_refused():
    with pytest.raises(TooLarge, match=r"1,064 parameters at the least width, 8, .* 550 is the limit$") as refused:
        fitting_width(lambda width: 1000 + square(width), 500)
    assert refused.value.width == 8


def test_counting_uses_the_meta_device():
    made = []

    def build():
        made.append(nn.Linear(10, 20))
        made[-1].weight.requires_grad_(True)
        return made[-1]

    state = torch.get_rng_state()
    assert count_built(build) == 220
    assert made[0].weight.device.type == "meta"
    assert torch.equal(torch.get_rng_state(), state)


def test_data_dependent_model_is_counted():
    def build():
        layer = nn.Linear(10, int(torch.tensor(20).item()))
        layer.phase = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
        layer.bias.requires_grad_(False)
        return layer

    assert count_built(build) == 200 + 6
