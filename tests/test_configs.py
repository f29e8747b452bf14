"""Every configuration that ships composes, names only arguments that exist, and takes a training step."""

import dataclasses
import inspect

import pytest
import torch
from composing import CONFIGS, classifier, compose, names
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lra.experiment import Hardware, Training
from lra.optim import adamw, schedule
from lra.task import TaskSpec
from scripts import train

TASKS, MODELS, SCALES = names("task"), names("model"), names("scale")


def batch_of(spec: TaskSpec, n: int = 4, longest: int = 24):
    """A random batch as the task's data would give it."""
    rows = 2 * n if spec.paired else n
    length = min(longest, spec.max_len) if spec.ragged else spec.max_len
    mask = torch.ones(rows, length, dtype=torch.bool)
    if spec.ragged:
        mask[1, length // 2 :] = False
    if spec.vocab_size is None:
        x = torch.randn(rows, length, spec.channels)
    else:
        x = torch.randint(1, spec.vocab_size, (rows, length)) * mask
    return x, mask, torch.arange(n) % spec.n_classes


@pytest.mark.parametrize("model", MODELS)
def test_every_task_and_model_takes_a_step(model):
    for task in TASKS:
        cfg = compose(f"task={task}", f"model={model}", "scale=smoke")
        spec = instantiate(cfg.task).spec
        # the length is not the point here; positions beyond 64 only cost time
        spec = dataclasses.replace(spec, max_len=min(spec.max_len, 64))
        net = classifier(cfg, spec).train()
        x, mask, y = batch_of(spec)
        optimizer = adamw(net, **OmegaConf.to_container(cfg.optimizer, resolve=True))
        before = [p.detach().clone() for p in net.parameters()]
        torch.nn.functional.cross_entropy(net(x, mask), y).backward()
        optimizer.step()
        assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)), task


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("model", MODELS)
def test_every_key_is_an_argument(model, scale):
    tasks = TASKS if scale == "paper" else TASKS[:1]
    for task in tasks:
        cfg = compose(f"task={task}", f"model={model}", f"scale={scale}")
        train.check_targets(OmegaConf.to_container(cfg, resolve=True))
        Training(**cfg.training)
        Hardware(**cfg.trainer)
        schedule(cfg.training.schedule, 100, cfg.training.warmup)
        assert set(cfg) <= set(inspect.signature(train.run).parameters)


def test_every_recipe_cites_its_source_and_names_a_task():
    recipes = sorted((CONFIGS / "recipe").rglob("*.yaml"))
    assert recipes
    for path in recipes:
        recipe = str(path.relative_to(CONFIGS / "recipe").with_suffix(""))
        assert train.source_of(recipe), path
        assert path.stem in TASKS, path


def test_recipes_are_taken_by_the_models_of_a_family():
    assert compose("task=listops", "model=linear_transformer").model.d_model == 512
    assert compose("task=listops", "model=s4").model.d_model == 256
    assert compose("task=listops", "model=s4d").training.epochs == 40
