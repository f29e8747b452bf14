"""The candidate GPU convolution equals ours, in the interpreter, and compiles for a GPU."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import packed_convolution as packed
from helpers.gpu_code import compile_for_gpu
from lra.ops.fftconv import long_conv
from lra.ops.ssm_kernels.triton.backend import interpreted


@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.skipif(not interpreted(), reason="TRITON_INTERPRET is not 1")),
        pytest.param(
            "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
        ),
    ],
)
@pytest.mark.parametrize(
    ("B", "H", "L", "M", "K", "skip", "masked"),
    [
        (3, 5, 37, 37, 2, True, True),
        (4, 33, 70, 20, 1, False, False),
        (1, 3, 16, 16, 2, False, False),
        (5, 4, 1, 1, 2, True, True),
    ],
)
def test_packed_convolution_equals_ours(B, H, L, M, K, skip, masked, device, monkeypatch):
    """Odd batches in blocks, more features than a tile, short kernels, any layout."""
    monkeypatch.setattr(packed, "LARGE_BLOCK", 4 * H * 80)
    torch.manual_seed(0)
    random = lambda *shape: torch.randn(*shape, device=device, requires_grad=True)  # noqa: E731
    u, kernel, D = random(B, L, H), random(K, H, M), random(H) if skip else None
    mask = (torch.rand(B, L, device=device) > 0.3) if masked else None
    weight = torch.randn(B, L, H, device=device).mT
    results = []
    for convolution in (long_conv, packed.Packed.apply):
        y = convolution(u.mT, kernel, D, mask)
        assert y.stride() == u.mT.stride()
        results.append((y, *torch.autograd.grad(y, [x for x in (u, kernel, D) if x is not None], weight)))
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * ours.abs().max()


def test_packed_convolution_when_interpreted():
    child = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-k", "equals_ours and cpu"],
        env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stdout[-3000:] + child.stderr[-1000:]
    assert "4 passed" in child.stdout


@pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET=1: there is nothing to compile")
@pytest.mark.parametrize("kernel", [packed.pack, packed.unpack, packed.multiply, packed.multiply_backward])
def test_kernels_compile_for_gpu(kernel, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    copies = kernel in (packed.pack, packed.unpack)
    sizes = {"MASKED": True, **packed.TILE} if copies else dict(packed.FLAT)
    types = dict.fromkeys(("u", "z", "y", "g", "k", "d"), "*fp32") | {"mask": "*i1"}
    assert compile_for_gpu(kernel, sizes, types).asm["cubin"]
