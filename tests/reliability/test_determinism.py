"""The same run twice gives the same bits; on another number of threads nearly the same; a refactor changes nothing."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from composing import classifier, compose, names
from hydra.utils import instantiate
from omegaconf import OmegaConf
from whole_runs import Run, assert_same

from lra.optim import adamw

GOLDEN = Path(__file__).parents[1] / "golden" / "first_losses.json"
# other processors round otherwise; five steps multiply that by far less than this
TOLERANCE = 1e-6


def first_losses(model: str) -> list[float]:
    """Losses of five training steps on one ragged batch of a small ListOps, in float64."""
    cfg = compose("task=listops", f"model={model}", "scale=smoke", "model.d_model=16")
    spec = dataclasses.replace(instantiate(cfg.task).spec, max_len=48)
    torch.manual_seed(0)
    net = classifier(cfg, spec).double().train()
    # drawn as whole numbers, which come out alike on every processor
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(1, spec.vocab_size, (4, 40), generator=generator)
    mask = torch.arange(40) < torch.tensor([40, 33, 25, 17])[:, None]
    y = torch.arange(4) % spec.n_classes
    optimizer = adamw(net, **OmegaConf.to_container(cfg.optimizer, resolve=True))
    losses = []
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(net(x * mask, mask), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("model", names("model"))
def test_first_losses_are_those_written_down(model):
    """A change that should not change numbers leaves the file as it is; LRA_GOLDEN=write renews it."""
    losses = first_losses(model)
    known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("LRA_GOLDEN") == "write":
        known = {name: known.get(name) for name in names("model") if name in known} | {model: losses}
        GOLDEN.write_text("{\n" + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in sorted(known.items())) + "\n}\n")
    assert model in known, f"LRA_GOLDEN=write python -m pytest {Path(__file__).name} adds a new model"
    assert losses == pytest.approx(known[model], rel=TOLERANCE)
    assert len(set(losses)) == 5


def test_golden_losses_are_of_models_that_exist():
    assert sorted(json.loads(GOLDEN.read_text())) == names("model")


@pytest.mark.parametrize("model", ["s4", "transformer"])
def test_deterministic_runs_are_equal_bit_for_bit_and_threads_change_little(model, start, tmp_path):
    words = [f"model={model}", "trainer.deterministic=true", "training.steps=30"]
    made = {}
    for name, threads in (("a", 1), ("b", 1), ("two", 2)):
        made[name] = Run(tmp_path / name, start, *words, f"trainer.threads={threads}", data=tmp_path / "data")
        assert made[name].process().wait() == 0, made[name].said()
    assert_same(made["a"], made["b"])
    one, two = (torch.tensor([p.train_loss for p in made[name].record().curve]) for name in ("a", "two"))
    torch.testing.assert_close(one, two, rtol=1e-5, atol=0)
