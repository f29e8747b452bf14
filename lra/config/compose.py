"""Composes the configuration of a run, and derives what its record says before the run starts."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, cast

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lra import paths
from lra.config.overrides import die, nearest, parse_arguments, variant_of
from lra.errors import UserError
from lra.io.redact import portable
from lra.paths import RESULTS
from lra.records.published import load_published
from lra.records.record import config_hash
from lra.records.run_spec import RunSpec

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, ValueError)
UNPUBLISHED = "none published"  # begins the source of a recipe whose numbers are not the authors'


def recipe_for(model: str, family: str, task: str) -> str:
    """Name of the recipe for a task: the model's own if there is one, else that of its family."""
    own = f"{model}/{task}"
    return own if (paths.CONFIGS / "recipe" / f"{own}.yaml").is_file() else f"{family}/{task}"


OmegaConf.register_new_resolver("recipe_for", recipe_for)


def composed(words: list[str], config: str = "train") -> dict[str, Any]:
    """Configuration, choices and overrides of a command line, as `lra.launch.job.one` takes them."""
    running = GlobalHydra.instance().is_initialized()  # inside hydra.main, but not in a worker of a launcher
    with nullcontext() if running else hydra.initialize_config_dir(str(paths.CONFIGS), version_base="1.3"):
        cfg = hydra.compose(config, overrides=words, return_hydra_config=True)
    about = cfg.hydra
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    OmegaConf.set_struct(cfg, True)
    return {"cfg": cfg, "choices": dict(about.runtime.choices), "overrides": list(about.overrides.task)}


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as nested dictionaries and lists."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def check_command_line(arguments: list[str]) -> None:
    """UserError, one line, if the arguments of scripts/train.py make no configuration. Sweeps are not expanded."""
    words = parse_arguments(arguments).overrides
    try:
        composed(words)
    except COMPOSITION_ERRORS as error:
        raise explained(error, words) from None


def run_hydra(main: Callable[[], object], config: str) -> None:
    """Run a function decorated with hydra.main; an error of the composition is one line and status 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors are raised here instead of being printed
    words = sys.argv[1:]
    try:
        words = parse_arguments(words).overrides
        main()
    except COMPOSITION_ERRORS as error:
        die(explained(error, words, config), f"{config}.py")


def explained(error: Exception, words: list[str], config: str = "train") -> Exception:
    """An error of the composition in one line, with the nearest key where a key is unknown."""
    if isinstance(error, UserError):
        return error
    text = str(error)
    if isinstance(error, yaml.YAMLError):
        return UserError(" ".join(text.split()))  # names the file at its end
    if "recipe_for" in text:
        hint = "begin it with defaults: [_transformer, _self_] or [_ssm, _self_]"
        model = next((word for word in words if word.startswith("model=")), "model")
        return UserError(f"{model}: its file names no family", hint=hint)
    if text.startswith("Ambiguous value"):  # several values without --multirun
        return UserError(text.split("\n")[0], hint="-m runs each value; brackets make a list: key=[a,b]")
    if unknown := re.match(r"Could not override '([^']*)'", text):
        key = unknown[1]
        line = next((word for word in words if word.lstrip("~").split("=")[0] == key), key)
        return UserError(f"{line}: there is no option {key}", hint=nearest(key, known_keys(words, config)))
    return UserError(str(error.__cause__ or error).strip().split("\n")[0])


def known_keys(words: list[str], config: str) -> list[str]:
    """Keys that can be overridden under the task, model and scale of a command line."""
    groups = [p.name for p in paths.CONFIGS.iterdir() if p.is_dir()]
    try:
        cfg = composed([word for word in words if word.split("=")[0] in groups], config)["cfg"]
    except COMPOSITION_ERRORS:
        return groups
    return [*keys(OmegaConf.to_container(cfg, resolve=False)), *groups]


def keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a nested dictionary, dotted."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield prefix + key
            yield from keys(value, f"{prefix}{key}.")


def source_of(recipe: str) -> str | None:
    """The source that a recipe cites in its first comment lines; None if there is no such recipe."""
    path = paths.CONFIGS / "recipe" / f"{recipe}.yaml"
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.removeprefix("# source:").strip() for line in lines if line.startswith("# source:")), None)


def recipe_of(model: str, recipe: str) -> tuple[str | None, str | None, list[str]]:
    """(recipe, source, notes) for the record; recipe is None where the model's authors published no settings."""
    source = source_of(recipe)
    if source and recipe.startswith(f"{model}/") and not source.startswith(UNPUBLISHED):
        return recipe, source, []
    return None, source, [f"no published settings of its own: takes {recipe if source else 'none'}"]


def hashed_config(cfg: DictConfig, variant: list[str]) -> dict[str, Any]:
    """The part of a configuration that decides the result, without settings of this machine.

    variant  the overrides that change the result
    """
    config = plain(cfg)
    if config["training"].get("minutes") is None:  # newer than the first records
        config["training"].pop("minutes", None)
    result = {k: config[k] for k in ("task", "model", "optimizer", "training")} | {"precision": cfg.trainer.precision}
    if cfg.pretrain is not None:
        result["pretrain"] = {"kind": cfg.pretrain, **config["pretraining"]}
    elif any(word.startswith("pretraining.") for word in variant):
        raise ValueError("pretraining.* without pretrain=masked or pretrain=causal changes nothing: leave it out")
    for key in ("root", "source", "seed"):
        result["task"].pop(key, None)
    return portable(result)


def cell_of(cfg: DictConfig, *, choices: Mapping[str, str], overrides: list[str]) -> RunSpec:
    """Identity of a run. choices: Hydra's, group -> name; overrides: of the command line."""
    model, task, scale = choices["model"], choices["task"], choices["scale"]
    variant = variant_of(overrides)
    config = hashed_config(cfg, variant)
    recipe, source, notes = recipe_of(model, str(choices.get("recipe")))
    words = [f"task={task}", f"model={model}", f"scale={scale}", f"seed={cfg.seed}", *variant]
    return RunSpec(
        task=task,
        model=model,
        title=load_published(RESULTS / "published").model(model).title,
        seed=cfg.seed,
        scale=scale,
        variant=variant,
        config=config,
        config_hash=config_hash(config),
        recipe=recipe,
        recipe_source=source,
        command=" ".join(["python scripts/train.py", *words]),
        notes=notes,
    )
