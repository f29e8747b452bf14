"""Every configuration that ships composes, names only arguments that exist, and takes a training step."""

import dataclasses
import inspect
import subprocess
import sys

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from helpers.compose import CONFIGS, classifier, compose, names
from lra.config import tuned
from lra.config.overrides import check_targets
from lra.config.param_budget import sized
from lra.launch import job
from lra.profiling.parameters import count_parameters
from lra.records.store import load
from lra.task import TaskSpec
from lra.training.config import Hardware, Training
from lra.training.optim import adamw, schedule

TASKS, MODELS, SCALES, TUNED = names("task"), names("model"), names("scale"), names("tuned")


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
        check_targets(OmegaConf.to_container(cfg, resolve=True))
        Training(**cfg.training)
        Hardware(**cfg.trainer)
        schedule(cfg.training.schedule, 100, cfg.training.warmup)
        assert set(cfg) <= set(inspect.signature(job.run).parameters)


def test_every_recipe_cites_its_source_and_names_a_task():
    recipes = sorted((CONFIGS / "recipe").rglob("*.yaml"))
    assert recipes
    for path in recipes:
        recipe = str(path.relative_to(CONFIGS / "recipe").with_suffix(""))
        assert tuned.source_of(recipe), path
        assert path.stem in TASKS, path


def test_recipes_are_taken_by_the_models_of_a_family():
    assert compose("task=listops", "model=linear_transformer").model.d_model == 512
    assert compose("task=listops", "model=s4").model.d_model == 256
    assert compose("task=listops", "model=s4d").training.epochs == 40


@pytest.mark.parametrize("model", TUNED)
def test_a_models_own_settings_are_what_its_runs_take(model):
    assert model in MODELS
    sources, sections = tuned.sections(model)
    assert all(sources[task] for task in sections)
    assert sections
    for task, section in sections.items():
        cfg = OmegaConf.to_container(compose(f"task={task}", f"model={model}"), resolve=True)
        for part in ("model", "family", "task", "optimizer", "training"):
            expected = section.pop(part, {})
            assert tuned.laid_over(cfg[part], expected) == cfg[part], (task, part)
        assert not section, f"{model} {task}: {list(section)}"
        assert all(isinstance(v, int | float) for v in (cfg["optimizer"]["lr"], cfg["optimizer"]["weight_decay"]))


@pytest.mark.parametrize("model", TUNED)
def test_a_models_own_settings_build_it(model):
    for task in tuned.sections(model)[1]:
        cfg = compose(f"task={task}", f"model={model}")
        spec = instantiate(cfg.task).spec
        # widths are the point, not the length
        spec = dataclasses.replace(spec, max_len=min(spec.max_len, 128))
        net = classifier(cfg, spec).eval()
        x, mask, _ = batch_of(spec, n=2)
        with torch.no_grad():
            assert net(x, mask).shape == (2, spec.n_classes), task


def test_settings_left_open_are_the_familys():
    performer, transformer = (compose("task=pathfinder", f"model={name}") for name in ("performer", "transformer"))
    assert performer.model.n_layers == 1
    assert transformer.model.n_layers == 4
    assert performer.training == transformer.training
    # Path-X is nowhere in its file
    on_pathx = [compose("task=pathx", f"model={name}").model for name in ("performer", "transformer")]
    assert on_pathx[0].n_layers == on_pathx[1].n_layers


def test_the_chunked_twin_differs_by_its_chunk():
    assert compose("task=text", "model=mega_chunk").model.encoder.chunk == 128
    whole, chunked = (compose("task=pathx", f"model={name}") for name in ("mega", "mega_chunk"))
    chunked.model.encoder.chunk = None
    assert chunked == whole


def test_a_record_says_whose_settings_were_used():
    recipe, source, notes = tuned.recipe_of("mega_chunk", "text", "s4/text")
    assert recipe == "mega_chunk/text"
    assert "mega" in source
    assert not notes
    # tuned by its own file, but nobody published it
    recipe, source, notes = tuned.recipe_of("megalodon", "text", "s4/text")
    assert recipe is None
    assert source.startswith("none published")
    assert "takes megalodon/text" in notes[0]
    # some of its tasks were run by another form of the model
    assert tuned.recipe_of("tnn", "text", "s4/text")[0] == "tnn/text"
    recipe, source, _ = tuned.recipe_of("tnn", "pathfinder", "s4/pathfinder")
    assert recipe is None
    assert source.startswith("none published for one dimension")
    assert tuned.recipe_of("dss", "text", "s4/text")[0] is None
    # the family's: its first model's own, on loan to the others
    assert tuned.recipe_of("s4", "text", "s4/text")[0] == "s4/text"
    recipe, source, notes = tuned.recipe_of("h3", "text", "s4/text")
    assert recipe is None
    assert "state-spaces/s4" in source
    assert "takes s4/text" in notes[0]
    # a task its authors did not run
    assert tuned.recipe_of("performer", "pathx", "transformer/pathx")[0] is None
    assert tuned.recipe_of("mine", "text", "None/text") == (
        None,
        None,
        ["no published settings of its own: takes none"],
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("listops: {}", "a.yaml: no source"),
        ("source: here\nlistop: {}", "a.yaml: listop is no task"),
        ("source: here\nlike: b", "a.yaml: like: b, but there is no b.yaml"),
    ],
)
def test_a_file_of_settings_that_is_wrong_is_named(tmp_path, text, message):
    for folder, name in (("task", "listops"), ("tuned", "a")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        tuned.sections("a", tmp_path)


def fitted(model: str, task: str = "listops", *more: str):
    cfg = compose(f"task={task}", f"model={model}", "scale=mini", "budget=lra", *more)
    return sized(cfg, task=task, scale="mini", overrides=list(more)), cfg


def size(cfg) -> int:
    return count_parameters(classifier(cfg, instantiate(cfg.task).spec))


@pytest.mark.parametrize("model", ["s4", "mamba2", "linformer", "megalodon"])
def test_a_budget_gives_a_model_the_size_of_the_transformer(model):
    said, cfg = fitted(model)
    reference = size(compose("task=listops", "model=transformer", "scale=mini"))
    assert size(cfg) <= 1.1 * reference
    assert f"{size(cfg):,} parameters" in said
    assert f"width {cfg.model.d_model}" in said
    assert f"{reference:,}" in said


def test_a_budget_leaves_the_transformer_as_it_is():
    said, cfg = fitted("transformer", "pathfinder")
    assert cfg.model.d_model == compose("task=pathfinder", "model=transformer", "scale=mini").model.d_model
    assert "100.0 %" in said
    assert fitted("transformer")[1].model == compose("model=transformer", "scale=mini").model


def test_a_budget_that_cannot_be_kept_is_refused():
    cfg = compose("budget=large", "scale=mini")
    with pytest.raises(ValueError, match="budget=large: not one of"):
        sized(cfg, task="listops", scale="mini", overrides=[])
    with pytest.raises(ValueError, match="leave out one"):
        fitted("s4", "listops", "model.d_model=32")


def test_the_number_of_layers_that_a_refused_model_is_told_fits_and_no_more_do():
    with pytest.raises(ValueError, match=r"on listops the model has .*model\.n_layers=\d+ fits") as refused:
        fitted("long_conv", "listops", "model.n_layers=50")
    layers = int(str(refused.value).split("model.n_layers=")[1].split()[0])
    assert fitted("long_conv", "listops", f"model.n_layers={layers}")
    with pytest.raises(ValueError, match=f"n_layers={layers} fits"):
        fitted("long_conv", "listops", f"model.n_layers={layers + 1}")


def test_a_model_too_large_at_any_depth_is_not_told_to_have_fewer_layers():
    with pytest.raises(ValueError, match=r"fewer layers do not help, .*model\.mixer\.\*"):
        fitted("synthesizer", "pathfinder")
    with pytest.raises(ValueError, match="the model has"):
        fitted("synthesizer", "pathfinder", "model.n_layers=1")
    # what it is told instead is true
    assert fitted("synthesizer", "pathfinder", "model.mixer.parts=[factorised_random,dot]", "model.mixer.rank=8")


def test_a_run_keeps_to_its_budget(tmp_path):
    words = ["task=listops", "model=linformer", "scale=mini", "budget=lra", "wandb.mode=disabled", "training.steps=1"]
    words += ["training.validations=1", "task.n_train=32", "task.n_val=16", "task.n_test=16"]
    words += [f"results={tmp_path}", f"runs={tmp_path}/runs", f"data.root={tmp_path}/data"]
    command = [sys.executable, str(CONFIGS.parent / "scripts" / "train.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "budget lra: width" in done.stderr
    (path,) = (tmp_path / "mini").rglob("*.json")
    record = load(path)
    assert "budget=lra" in record.variant
    assert f"width {record.config['model']['d_model']} for" in " ".join(done.stderr.split())
    assert record.parameters <= 1.1 * size(compose("task=listops", "model=transformer", "scale=mini"))
