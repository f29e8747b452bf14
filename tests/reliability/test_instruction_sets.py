"""Older instruction sets: AVX2 without bfloat16, and each x86-64 level. `make nightly` runs all tests on AVX2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.kernel_cases import errors, system, value_and_gradients
from lra.ops.cpp_library import instruction_set, library
from lra.ops.fftconv import long_conv
from lra.ops.ssm_kernels import cpp
from lra.ops.ssm_kernels.dispatch import nplr_spectrum

AVX2_ONLY = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
VECTORS = {"x86-64-v2": "128-bit vectors", "x86-64-v3": "AVX2", "x86-64-v4": "AVX-512"}
CPU_FLAG = {"x86-64-v2": "sse4_2", "x86-64-v3": "avx2", "x86-64-v4": "avx512vl"}

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


def test_rnns_train_in_mixed_precision_on_avx2():
    done = subprocess.run(
        [sys.executable, "-c", AUTOCAST], env=os.environ | AVX2_ONLY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("level", CPU_FLAG)
def test_cpp_kernels_match_on_every_x86_level(level, tmp_path, monkeypatch):
    cpu = Path("/proc/cpuinfo")
    if not cpu.exists() or CPU_FLAG[level] not in cpu.read_text().split():
        pytest.skip(f"this processor is not {level}")
    if reason := cpp.unavailable_reason(torch.device("cpu"), torch.float32):
        pytest.skip(reason)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXXFLAGS", f"-march={level}")
    library.cache_clear()
    try:
        assert instruction_set(library("fftconv")) == VECTORS[level]
        rounded, exact = system(3, 5, 2, 1), system(3, 5, 2, 1, torch.float64)
        truth = value_and_gradients(lambda *p: nplr_spectrum(*p, 100, backend="reference"), exact)
        found = value_and_gradients(lambda *p: nplr_spectrum(*p, 100, backend="compiled"), rounded)
        assert len(list(tmp_path.rglob("*.so"))) == 2, "the libraries were not compiled here"
        torch.manual_seed(0)
        u, kernel = torch.randn(2, 9, 25), torch.randn(2, 9, 25)
        convolved = long_conv(u, kernel), long_conv(u.double(), kernel.double())
    finally:
        library.cache_clear()
    assert all(error < 1e-4 for error in errors(found, truth).values())
    torch.testing.assert_close(convolved[0].double(), convolved[1], rtol=0, atol=1e-5)
