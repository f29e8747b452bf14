"""Missing hardware is reported in one line before a run starts."""

import ctypes

import pytest
import torch
from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator

from lra.training.config import Hardware
from lra.training.trainer import ensure_available, make_trainer


def test_missing_accelerator_is_reported(monkeypatch):
    for kind in (CUDAAccelerator, MPSAccelerator):
        monkeypatch.setattr(kind, "is_available", staticmethod(lambda: False))
    for name in ("gpu", "cuda", "mps"):
        with pytest.raises(ValueError, match=rf"^trainer.accelerator={name}: .*; hint: trainer.accelerator=auto$"):
            ensure_available(name, "trainer.accelerator")
    for name in ("auto", "cpu"):
        ensure_available(name, "trainer.accelerator")
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    for name in ("gpu", "cuda"):
        ensure_available(name, "trainer.accelerator")


def test_too_many_devices_are_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: False))
    with pytest.raises(ValueError, match=r"^trainer.accelerator=cuda, trainer.devices=9: \S[^\n]+$"):
        make_trainer(Hardware(accelerator="cuda", devices=9), folder=tmp_path, max_steps=1, callbacks=[])


def test_cpu_step_loads_no_gpu_library(monkeypatch, tmp_path):
    loaded = []
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning sets it
    make_trainer(Hardware(accelerator="cpu"), folder=tmp_path, max_steps=1, callbacks=[], logger=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name, *args, **kwargs: loaded.append(name))
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    torch.optim.AdamW([weight], fused=True).step()
    assert loaded == []
