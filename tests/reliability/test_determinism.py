"""Deterministic runs are bit-identical, threads change only rounding, and refactors keep the first losses."""

import dataclasses
import functools
import json
import os
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from helpers.compose import classifier, compose, names
from helpers.whole_runs import Run, assert_same
from lra.paths import ROOT
from lra.task import TaskSpec
from lra.training.optim import adamw

GOLDEN = ROOT / "tests" / "golden" / "first_losses.json"
# processors round differently; five steps amplify that far less
TOLERANCE = 1e-6


@functools.cache
def small_config(model: str) -> tuple[DictConfig, TaskSpec]:
    cfg = compose("task=listops", f"model={model}", "scale=smoke", "model.d_model=16")
    return cfg, dataclasses.replace(instantiate(cfg.task).spec, max_len=48)


def first_steps(model: str, n: int, dtype: torch.dtype) -> tuple[list[float], nn.Module]:
    """Losses of n training steps on one ragged ListOps batch, and the trained model."""
    cfg, spec = small_config(model)
    torch.manual_seed(0)
    net = classifier(cfg, spec).to(dtype).train()
    # random integers are the same on every processor
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(1, spec.vocab_size or 0, (4, 40), generator=generator)
    mask = torch.arange(40) < torch.tensor([40, 33, 25, 17])[:, None]
    y = torch.arange(4) % spec.n_outputs
    optimizer = adamw(net, **cfg.optimizer)
    losses = []
    for _ in range(n):
        loss = torch.nn.functional.cross_entropy(net(x * mask, mask), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, net


@pytest.mark.parametrize("model", names("model"))
def test_first_losses_match_the_golden_file(model):
    """Set LRA_GOLDEN=write to update the file, only for a change that is meant to change numbers."""
    losses, _ = first_steps(model, 5, torch.float64)
    known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("LRA_GOLDEN") == "write":
        known = {name: known.get(name) for name in names("model") if name in known} | {model: losses}
        GOLDEN.write_text("{\n" + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in sorted(known.items())) + "\n}\n")
    assert model in known, f"LRA_GOLDEN=write python -m pytest {Path(__file__).name} adds a new model"
    assert losses == pytest.approx(known[model], rel=TOLERANCE)
    assert len(set(losses)) == 5


@pytest.fixture
def deterministic():
    """Deterministic algorithms, as with Lightning's deterministic=True."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("model", names("model"))
def test_every_model_trains_deterministically(model, deterministic):
    """Operations without a deterministic form raise here; unseeded noise gives other losses."""
    (one, first), (two, second) = (first_steps(model, 3, torch.float32) for _ in range(2))
    assert one == two
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_golden_file_lists_the_existing_models():
    assert sorted(json.loads(GOLDEN.read_text())) == names("model")


def trained(model: str, start, place: Path, threads: int = 1) -> Run:
    words = [f"model={model}", "trainer.deterministic=true", "training.steps=30", f"trainer.threads={threads}"]
    run = Run(place, start, *words, data=place.parent / "data")
    assert run.process().wait() == 0, run.output()
    return run


@pytest.mark.parametrize("model", ["s4", pytest.param("transformer", marks=pytest.mark.nightly)])
def test_deterministic_runs_are_bit_identical(model, start, tmp_path):
    assert_same(trained(model, start, tmp_path / "a"), trained(model, start, tmp_path / "b"))


@pytest.mark.nightly
@pytest.mark.parametrize("model", ["s4", "transformer"])
def test_threads_change_losses_only_by_rounding(model, start, tmp_path):
    runs = (trained(model, start, tmp_path / str(threads), threads) for threads in (1, 2))
    records = [record for run in runs if (record := run.record())]
    one, two = (torch.tensor([p.train_loss for p in record.curve], dtype=torch.float64) for record in records)
    print(f"{model}: largest relative difference {float(((one - two) / one).abs().max()):.1e}")
    torch.testing.assert_close(one, two, rtol=1e-5, atol=0)
