"""A training step fits into 12 GB: of every model at the length of Text, of linear models also at that of Path-X.

Sizes are those of the S4 paper's efficiency table: 4 layers, 600,000 parameters, one row.
"""

import argparse
from contextlib import nullcontext

import pytest
import torch

from benchmarks import attention as bench
from helpers.compose import names
from lra.profiling.timing import peak_bytes

pytestmark = pytest.mark.nightly

GB_12 = 12e9
# quadratic in the length, or (LSSL) with a state for every position and feature
NOT_LINEAR = {"transformer", "rope_transformer", "synthesizer", "mega", "megalodon", "lssl"}


def peak(model: str, length: int) -> float:
    """Peak bytes of a training step, with parameters, gradients and the optimiser's moments."""
    parser = argparse.ArgumentParser()
    bench.arguments(parser)
    torch.manual_seed(0)
    net = bench.build(model, "s4", length)
    step = bench.training_step(net, length, nullcontext, parser.parse_args([]))
    step()
    held = peak_bytes(step, torch.device("cpu"))
    assert all(p.isfinite().all() for p in net.parameters())
    return held + 3 * sum(p.numel() * p.element_size() for p in net.parameters())


@pytest.mark.parametrize("model", names("model"))
def test_step_at_4096_positions_fits(model):
    assert peak(model, 4096) < GB_12


@pytest.mark.parametrize("model", sorted(set(names("model")) - NOT_LINEAR))
def test_linear_step_at_16384_positions_fits(model):
    assert peak(model, 16384) < GB_12
