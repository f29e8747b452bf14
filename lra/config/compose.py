"""Composes the configuration of a run, and derives what its record says before the run starts."""

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lra import paths
from lra.config.overrides import (
    NAMING,
    choices_of,
    die,
    is_group,
    key_of,
    nearest,
    options,
    parse_arguments,
    result_overrides,
)
from lra.config.variant import (
    Settings,
    canonical,
    changes,
    check_effect,
    contains,
    hashed_config,
    settings_of,
    unused,
    word,
    words,
)
from lra.errors import UserError
from lra.paths import RESULTS
from lra.records.published import load_published
from lra.records.record import config_hash, record_path
from lra.records.run_spec import RunSpec
from lra.records.store import load

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, ValueError)
UNKNOWN = re.compile(r"Could not override '([^']*)'")
UNPUBLISHED = "none published"  # begins the source of a recipe whose numbers are not the authors'


def recipe_for(model: str, family: str, task: str) -> str:
    """Name of the recipe for a task: the model's own if there is one, else that of its family."""
    own = f"{model}/{task}"
    return own if (paths.CONFIGS / "recipe" / f"{own}.yaml").is_file() else f"{family}/{task}"


OmegaConf.register_new_resolver("recipe_for", recipe_for)
OmegaConf.register_new_resolver("known", lambda group: ", ".join(options(group)))


def compose(words: list[str], config: str) -> DictConfig:
    """Hydra's composition of a command line, with its own section `hydra`."""
    running = GlobalHydra.instance().is_initialized()  # inside hydra.main, but not in a worker of a launcher
    with nullcontext() if running else hydra.initialize_config_dir(str(paths.CONFIGS), version_base="1.3"):
        try:
            return hydra.compose(config, overrides=words, return_hydra_config=True)
        except HydraException as error:
            if not UNKNOWN.match(str(error)) or (allowed := with_arguments(words)) == words:
                raise
            return hydra.compose(config, overrides=allowed, return_hydra_config=True)


def composed(words: list[str], config: str = "train") -> dict[str, Any]:
    """Configuration, choices and overrides of a command line, as `lra.launch.job.one` takes them."""
    cfg = compose(words, config)
    about = cfg.hydra
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    OmegaConf.set_struct(cfg, True)
    return {"cfg": cfg, "choices": dict(about.runtime.choices), "overrides": list(about.overrides.task)}


def with_arguments(words: list[str]) -> list[str]:
    """The words, where an argument of a constructor that its file does not repeat has Hydra's prefix for a new key."""
    candidates = [word for word in words if word.startswith(("model.", "task."))]
    if not candidates:
        return words
    groups: dict[str, list[str]] = {"task": [], "model": [], "scale": []}
    for override in OverridesParser.create().parse_overrides(words):
        if override.key_or_group in groups and not override.is_delete():
            groups[override.key_or_group] = [f"{override.key_or_group}={choice}" for choice in choices_of(override)]
    first = [choices[0] for choices in groups.values() if choices]
    added: set[str] = set()
    for choice in {choice: None for choices in groups.values() for choice in choices} or {"scale=paper": None}:
        others = [word for word in first if key_of(word) != key_of(choice)]
        config = OmegaConf.to_container(composed([*others, choice])["cfg"], resolve=False)
        added |= {word for word in candidates if _is_new_argument(key_of(word), cast(dict[str, Any], config))}
    return [f"++{word}" if word in added else word for word in words]


def _is_new_argument(key: str, config: dict[str, Any]) -> bool:
    """Whether a dotted key is missing in a configuration and names an argument of the constructor it belongs to."""
    parent, _, name = key.rpartition(".")
    node: Any = config
    for part in parent.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict) or name in node or "_target_" not in node:
        return False
    from lra.config.schema import arguments_of  # imports torch

    return name in arguments_of(get_object(node["_target_"]))


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


def run_hydra(main: Callable[[], object], config: str, *, sweep: Callable[[list[str]], object] | None = None) -> None:
    """Run a function decorated with hydra.main; an error of the composition is one line and status 2.

    sweep  called with the words of a --multirun before its first job
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors are raised here instead of being printed
    words = sys.argv[1:]
    try:
        parsed = parse_arguments(words)
        words = parsed.overrides
        if config == "train":
            allowed = with_arguments(words)
            sys.argv[1:] = [dict(zip(words, allowed, strict=True)).get(word, word) for word in sys.argv[1:]]
            words = allowed
        if sweep is not None and (parsed.multirun or "hydra.mode=MULTIRUN" in words):
            sweep(words)
        main()
    except BrokenPipeError:  # `| head`
        raise
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
    if unknown := UNKNOWN.match(text):
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


def comment_of(file: str, key: str) -> str | None:
    """What the first comment `# key: ...` of a file of configs says; None without the comment or the file."""
    path = paths.CONFIGS / f"{file}.yaml"
    lines = path.read_text().splitlines() if path.exists() else []
    start = f"# {key}:"
    return next((line.removeprefix(start).strip() for line in lines if line.startswith(start)), None)


def source_of(recipe: str) -> str | None:
    """The source that a recipe cites in its first comment lines; None if there is no such recipe."""
    return comment_of(f"recipe/{recipe}", "source")


def title_of(model: str) -> str:
    """Name of a model in tables: from results/published/models.csv, the comment `# title:` of its file, or its stem."""
    published = load_published(RESULTS / "published").models.get(model)
    return published.title if published else comment_of(f"model/{model}", "title") or model


def recipe_of(model: str, recipe: str) -> tuple[str | None, str | None, list[str]]:
    """(recipe, source, notes) for the record; recipe is None where the model's authors published no settings."""
    source = source_of(recipe)
    if source and recipe.startswith(f"{model}/") and not source.startswith(UNPUBLISHED):
        return recipe, source, []
    return None, source, [f"no published settings of its own: takes {recipe if source else 'none'}"]


def check_recipe(cfg: DictConfig, choices: Mapping[str, str]) -> None:
    """UserError if nothing states the length of the run because the task has no recipe."""
    training = plain(cfg)["training"]
    lengths = [training.get(name) for name in ("epochs", "steps", "minutes")]
    if lengths == [None] * 3 and source_of(str(choices.get("recipe"))) is None:
        raise UserError(f"no recipe for task {choices['task']}", hint="scale=mini")


def cell_of(cfg: DictConfig, *, choices: Mapping[str, str], overrides: list[str]) -> RunSpec:
    """Identity of a run. choices: Hydra's, group -> name; overrides: of the command line.

    raises  UserError for an override that changes nothing in the run
    """
    model, task, scale = choices["model"], choices["task"], choices["scale"]
    naming = [f"task.{key}={cfg.task[key]}" for key in naming_keys(cfg)]
    names = [f"task={task}", f"model={model}", f"scale={scale}", f"seed={cfg.seed}", *naming]
    settings, variant, command = settings_of(cfg), [], names
    typed = settings
    if result_overrides(overrides) or "trainer" in {key_of(word) for word in overrides}:
        base = settings_of(composed(names)["cfg"])
        check_overrides(cfg, settings, overrides)
        settings = canonical(settings, base)
        found = dict(changes(settings, base))
        if cfg.get("budget") is not None:  # chooses the width
            found.pop("model.d_model", None)
            variant = [f"budget={cfg.budget}"]
        command = [*names, *variant, *(w for key, value in found.items() for w in words(key, value, base))]
        variant = sorted(variant + [word(key, value) for key, value in found.items()])
    config = hashed_config(settings)
    recipe, source, notes = recipe_of(model, str(choices.get("recipe")))
    spec = RunSpec(
        task=cfg.task.get("name") or task,
        model=model,
        title=title_of(model),
        seed=cfg.seed,
        scale=scale,
        variant=variant,
        config=config,
        config_hash=config_hash(config),
        recipe=recipe,
        recipe_source=source,
        command=shlex.join(["python", "scripts/train.py", *command]),
        notes=notes,
    )
    return as_recorded(Path(cfg.results), spec, hashed_config(typed))


def naming_keys(cfg: DictConfig) -> list[str]:
    """Arguments of the task that are part of its name: horizon in `name: etth1-${.horizon}`."""
    template = cast(dict[str, Any], OmegaConf.to_container(cfg.task, resolve=False)).get("name")
    return NAMING.findall(template) if isinstance(template, str) else []


def check_overrides(cfg: DictConfig, settings: Settings, overrides: list[str]) -> None:
    """UserError for the first override that changes its own key and nothing that decides the result."""
    for override in result_overrides(overrides):
        key = key_of(override)
        if key == "budget" or is_group(key) or (contains(settings, key) and key not in unused(settings)):
            continue
        try:
            if cfg.get("budget") is not None:  # has chosen a width
                cfg = composed(overrides)["cfg"]
            without = composed([other for other in overrides if other is not override])["cfg"]
        except COMPOSITION_ERRORS:
            continue  # another override needs this one
        check_effect(override, cfg, without)


def as_recorded(results: Path, spec: RunSpec, typed: dict[str, Any]) -> RunSpec:
    """The run under the variant of its existing record, if that was written with another spelling of the overrides.

    typed  configuration with numbers as typed, which older records hold
    """
    folder = record_path(results, scale=spec.scale, model=spec.model, task=spec.task, seed=spec.seed).parent
    if record_path(results, **identity(spec)).exists() or not folder.is_dir():
        return spec
    known = {config_hash(typed): typed, spec.config_hash: spec.config}
    for path in sorted(folder.glob(f"{spec.seed}*.json")):
        try:
            record = load(path)
        except ValueError:
            continue
        if record.seed == spec.seed and (config := known.get(record.config_hash)) is not None:
            recorded = {name: getattr(record, name) for name in ("variant", "command", "config_hash")}
            return replace(spec, config=config, **recorded)
    return spec


def identity(spec: RunSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in ("scale", "model", "task", "seed", "variant")}
