"""Processors with fewer instructions than this one. `make nightly` runs the whole suite with them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import step
from helpers.kernel_cases import errors, system, value_and_gradients
from lra.ops.ssm_kernels import cpp
from lra.ops.ssm_kernels.dispatch import nplr_spectrum

AVX2_ONLY = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
NEEDED = {"x86-64-v2": "sse4_2", "x86-64-v3": "avx2", "x86-64-v4": "avx512vl"}

AUTOCAST = """
import torch
from models.gru import GRU
from models.lstm import LSTM

x, mask = torch.randn(2, 24, 16), torch.ones(2, 24, dtype=torch.bool)
for model in (LSTM(16, 24), GRU(16, 24)):
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            y = model(x, mask)
        y.float().sum().backward()
        assert y.isfinite().all()
"""


def test_recurrences_train_in_mixed_precision_without_bfloat16_instructions():
    run = subprocess.run(
        [sys.executable, "-c", AUTOCAST], env=os.environ | AVX2_ONLY, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("level", NEEDED)
def test_loops_built_for_a_lesser_processor_match_the_definition(level, tmp_path, monkeypatch):
    cpu = Path("/proc/cpuinfo")
    if not cpu.exists() or NEEDED[level] not in cpu.read_text().split():
        pytest.skip(f"this processor is not {level}")
    if reason := cpp.unavailable_reason(torch.device("cpu"), torch.float32):
        pytest.skip(reason)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    flags = [flag.replace("native", level) for flag in cpp.FLAGS]
    monkeypatch.setattr(cpp, "FLAGS", flags)
    cpp.library.cache_clear()
    try:
        rounded, exact = system(3, 5, 2, 1), system(3, 5, 2, 1, torch.float64)
        truth = value_and_gradients(lambda *p: nplr_spectrum(*p, 100, backend="reference"), exact)
        found = value_and_gradients(lambda *p: nplr_spectrum(*p, 100, backend="compiled"), rounded)
        assert list(tmp_path.rglob("*.so")), "built before, for this processor"
    finally:
        cpp.library.cache_clear()
    assert all(error < 1e-4 for error in errors(found, truth).values())


@pytest.mark.parametrize(("floating", "sizes"), [(1e3, [2**8]), (1e11, [2**n for n in range(8, 12)])])
def test_a_ceiling_is_measured_at_the_first_size_that_takes_long_enough(floating, sizes):
    tried = []

    def rate(n):
        tried.append(n)
        return floating, 2 * n**3 / floating

    assert step.grown(rate, range(8, 14)) == floating
    assert tried == sizes
