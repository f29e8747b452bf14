"""What a machine has not is said in one line, before anything is begun; and what a step need not look for."""

import ctypes

import pytest
import torch
from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator

from lra.training.config import Hardware
from lra.training.trainer import ensure_there, trainer_for


def test_an_accelerator_that_is_not_there_is_one_line_with_a_cure(monkeypatch):
    for kind in (CUDAAccelerator, MPSAccelerator):
        monkeypatch.setattr(kind, "is_available", staticmethod(lambda: False))
    for name in ("gpu", "cuda", "mps"):
        with pytest.raises(ValueError, match=rf"^trainer.accelerator={name}: PyTorch finds no {name} .*=auto"):
            ensure_there(name, "trainer.accelerator")
    for name in ("auto", "cpu"):
        ensure_there(name, "trainer.accelerator")
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    for name in ("gpu", "cuda"):
        ensure_there(name, "trainer.accelerator")


def test_more_devices_than_there_are_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: False))
    with pytest.raises(ValueError, match=r"^trainer.accelerator=cuda, trainer.devices=9: \S[^\n]+$"):
        trainer_for(
            Hardware(accelerator="cuda", devices=9, nodes=1), folder=tmp_path, max_steps=1, clip=None, callbacks=[]
        )


def test_a_step_on_the_processor_looks_for_no_library_of_gpus(monkeypatch, tmp_path):
    looked_for = []
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning leaves it
    trainer_for(Hardware(accelerator="cpu"), folder=tmp_path, max_steps=1, clip=None, callbacks=[], logger=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name, *more, **named: looked_for.append(name))
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    torch.optim.AdamW([weight], fused=True).step()
    assert looked_for == []
