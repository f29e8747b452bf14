"""Every shipped configuration composes, names only arguments that exist, and takes a training step."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from hydra.utils import instantiate

from helpers.compose import CONFIGS, classifier, compose, limited, names
from lra.config.compose import check_recipe, composed, plain, recipe_of, source_of
from lra.config.param_budget import fit_to_budget
from lra.config.schema import check_configuration
from lra.nn.generation import scores_of
from lra.objectives.objective import objective_of
from lra.profiling.parameters import count_parameters
from lra.records.published import TASKS as LRA
from lra.records.store import load
from lra.task import TaskSpec
from lra.training.optim import adamw, schedule

TASKS, MODELS, SCALES, RECIPES = names("task"), names("model"), names("scale"), names("recipe")


def batch_of(spec: TaskSpec, n: int = 4, longest: int = 24):
    """A random batch as the task's data would give it."""
    rows = 2 * n if spec.paired else n
    length = min(longest, spec.max_len) if spec.ragged else spec.max_len
    mask = torch.ones(rows, length, dtype=torch.bool)
    if spec.ragged:
        mask[1, length // 2 :] = False
    x = dataclasses.replace(spec, max_len=length).random_input(rows)
    return x if spec.vocab_size is None else x * mask, mask, spec.random_targets(n)


def short_model(cfg, longest: int):
    """The model and its task, shortened to save time."""
    spec = instantiate(cfg.task).spec
    length = min(spec.max_len, longest)
    spec = dataclasses.replace(spec, max_len=length, horizon=length if spec.causal else spec.horizon)
    return classifier(cfg, spec), spec


@pytest.mark.parametrize("model", MODELS)
def test_a_step_on_every_task(model):
    for task in (*LRA, "scifar", "etth1"):  # others have inputs and heads like one of these
        cfg = compose(f"task={task}", f"model={model}", "scale=smoke")
        net, spec = short_model(cfg, 64)
        x, mask, y = batch_of(spec)
        optimizer = adamw(net.train(), **plain(cfg.optimizer))
        before = [p.detach().clone() for p in net.parameters()]
        objective_of(spec.objective).loss(net(x, mask), y).backward()
        optimizer.step()
        assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)), task


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("model", MODELS)
def test_every_key_is_an_argument(model, scale):
    # the families' own models with every task, the others with LRA's
    for task in (TASKS if model in ("s4", "transformer") else LRA) if scale == "paper" else TASKS[:1]:
        known = composed([f"task={task}", f"model={model}", f"scale={scale}"])
        cfg = known["cfg"]
        if scale == "paper" and not any(recipe.endswith(f"/{task}") for recipe in RECIPES):
            with pytest.raises(ValueError, match=f"no recipe for task {task}; hint: scale=mini"):
                check_recipe(cfg, known["choices"])
            continue
        check_configuration(plain(cfg))
        schedule(cfg.training.schedule, 100, cfg.training.warmup)


def test_recipes_name_model_task_and_source():
    for recipe in RECIPES:
        model, task = recipe.split("/")
        assert model in (*MODELS, *limited()), recipe
        assert task in TASKS, recipe
        assert source_of(recipe), recipe


def test_models_share_their_familys_recipe():
    assert compose("task=listops", "model=fnet").model.d_model == 512
    assert compose("task=listops", "model=s4").model.d_model == 256
    assert compose("task=listops", "model=s4d").training.epochs == 40


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_used_and_builds_its_model(recipe):
    model, task = recipe.split("/")
    large = task in ("wikitext103", "cifar_density")
    words = f"task={task}", f"model={model}", *(("family.d_model=64", "family.n_layers=1") if large else ())
    cfg = compose(*words)
    assert cfg == compose(*words, f"recipe={recipe}")
    net, spec = short_model(cfg, 128)
    x, mask, _ = batch_of(spec, n=2)
    with torch.no_grad():
        positions = [min(spec.horizon, x.shape[1])] if spec.horizon else []
        assert scores_of(net.eval()(x, mask)).shape == (2, *positions, spec.n_outputs)


def test_recipe_overrides_only_what_it_names():
    performer, transformer = (compose("task=pathfinder", f"model={name}") for name in ("performer", "transformer"))
    assert performer.model.n_layers == 1
    assert transformer.model.n_layers == 4
    assert performer.training == transformer.training
    # without a recipe of its own on Path-X, Performer has that of the Transformer
    performer, transformer = (compose("task=pathx", f"model={name}").model for name in ("performer", "transformer"))
    assert performer.n_layers == transformer.n_layers


def test_mega_chunk_is_mega_with_chunks():
    assert compose("task=text", "model=mega_chunk").model.encoder.chunk == 128
    mega, chunked = (compose("task=pathx", f"model={name}") for name in ("mega", "mega_chunk"))
    assert chunked.model.encoder.chunk == 4096
    chunked.model.encoder.chunk = None
    assert chunked == mega


@pytest.mark.parametrize(
    ("model", "recipe", "published"),
    [
        ("mega_chunk", "mega_chunk/text", True),
        ("megalodon", "megalodon/text", False),
        ("tnn", "tnn/text", True),
        ("tnn", "tnn/pathfinder", False),  # published for another form of the model
        ("s4", "s4/text", True),
        ("h3", "s4/text", False),  # published for another model
        ("performer", "transformer/pathx", False),
    ],
)
def test_recipe_in_the_record(model, recipe, published):
    name, source, notes = recipe_of(model, recipe)
    assert source
    assert (name, notes) == (
        (recipe, []) if published else (None, [f"no published settings of its own: takes {recipe}"])
    )


def test_record_of_a_run_without_recipe():
    assert recipe_of("mine", "None/text") == (None, None, ["no published settings of its own: takes none"])


def fitted(model: str, task: str = "listops", *more: str):
    cfg = compose(f"task={task}", f"model={model}", "scale=mini", "budget=lra", *more)
    return fit_to_budget(cfg, task=task, scale="mini", overrides=list(more)), cfg


def size(cfg) -> int:
    return count_parameters(classifier(cfg, instantiate(cfg.task).spec))


@pytest.mark.parametrize("model", ["s4", "mamba2", "linformer", "megalodon"])
def test_budget_gives_the_size_of_the_transformer(model):
    line, cfg = fitted(model)
    reference = size(compose("task=listops", "model=transformer", "scale=mini"))
    assert 0.5 * reference < size(cfg) <= 1.1 * reference
    assert f"width {cfg.model.d_model} for the recipe's 64, {size(cfg):,} parameters" in line


@pytest.mark.parametrize("task", ["listops", "pathfinder"])
def test_budget_leaves_the_transformer_unchanged(task):
    line, cfg = fitted("transformer", task)
    assert cfg.model == compose(f"task={task}", "model=transformer", "scale=mini").model
    assert "100.0 %" in line


def test_impossible_budgets_are_refused():
    with pytest.raises(ValueError, match="budget=large: unknown"):
        fit_to_budget(compose("budget=large", "scale=mini"), task="listops", scale="mini", overrides=[])
    with pytest.raises(ValueError, match="leave out one"):
        fitted("s4", "listops", "model.d_model=32")


def test_hint_names_the_most_layers_that_fit():
    with pytest.raises(ValueError, match=r"model\.n_layers=\d+ fits") as refused:
        fitted("long_conv", "listops", "model.n_layers=50")
    layers = int(str(refused.value).split("model.n_layers=")[1].split()[0])
    assert fitted("long_conv", "listops", f"model.n_layers={layers}")
    with pytest.raises(ValueError, match=f"n_layers={layers} fits"):
        fitted("long_conv", "listops", f"model.n_layers={layers + 1}")


def test_hint_for_a_model_too_large_at_any_depth():
    with pytest.raises(ValueError, match=r"fewer layers do not help, .*model\.mixer\.\*"):
        fitted("synthesizer", "pathfinder")
    assert fitted("synthesizer", "pathfinder", "model.mixer.parts=[factorised_random,dot]", "model.mixer.rank=8")


def test_a_run_keeps_to_its_budget(tmp_path):
    words = ["task=listops", "model=linformer", "scale=mini", "budget=lra", "wandb.mode=disabled", "training.steps=1"]
    words += ["training.validations=1", "task.n_train=32", "task.n_val=16", "task.n_test=16"]
    words += [f"results={tmp_path}", f"runs={tmp_path}/runs", f"data.root={tmp_path}/data"]
    command = [sys.executable, str(CONFIGS.parent / "scripts" / "train.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "mini").rglob("*.json")
    record = load(path)
    assert "budget=lra" in record.variant
    assert f"budget lra: width {record.config['model']['d_model']} for" in " ".join(done.stderr.split())
    assert record.parameters <= 1.1 * size(compose("task=listops", "model=transformer", "scale=mini"))
