"""The command line of scripts/train.py: what may stand on it, and one line for every word that may not."""

import argparse
import difflib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lra.io.redact import without_secrets
from lra.paths import CONFIGS

NO_CONFIGURATION = (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, ValueError)
# choices that name a cell, and settings that change where and how fast it runs but not what comes out
NAMES = {"task", "model", "scale", "seed"}
SETTING = re.compile(
    r"wandb\b.*|force|results|runs|data\..*|hydra\b.*|trainer|"
    r"trainer\.(accelerator|devices|nodes|compile|graph|threads|deterministic|checkpoint_seconds|split)"
)


def variant_of(overrides: list[str]) -> list[str]:
    """The overrides that make another result of a cell, sorted."""
    return sorted(
        o for o in overrides if (key := o.split("=")[0].lstrip("+~")) not in NAMES and not SETTING.fullmatch(key)
    )


def die(message: str) -> NoReturn:
    """One line on the error stream and exit status 2: the user can mend it."""
    print("train.py: " + without_secrets(" ".join(str(message).split())), file=sys.stderr)
    sys.exit(2)


def nearest(word: str, known: list[str]) -> str:
    sections = [name for name in known if name.endswith(f".{word}")]  # lr: optimizer.lr
    close = sections[:3] or difflib.get_close_matches(word, known, n=1, cutoff=0.0)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def options(group: str) -> list[str]:
    """Names one can choose in a folder of configs; those with an underscore in front are bases."""
    files = (CONFIGS / group).rglob("*.yaml")
    return sorted(str(p.relative_to(CONFIGS / group).with_suffix("")) for p in files if p.name[0] != "_")


def keys(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield prefix + key
            yield from keys(value, f"{prefix}{key}.")


def check_command_line(arguments: list[str]) -> None:
    """Ends with one line if an argument names no option, no choice or no key."""
    words = options_of_hydra(arguments)
    for word in words.overrides:
        if "=" not in word and word[:1] != "~":
            die(f"{word!r}: a word such as task=listops is expected")
    try:
        overrides = OverridesParser.create().parse_overrides(words.overrides)
    except HydraException as error:
        die(str(error).split("\n")[0])
    groups = [p.name for p in CONFIGS.iterdir() if p.is_dir()]
    chosen = []
    for override in overrides:
        if override.key_or_group in groups and not override.is_delete():
            value = override.value()
            choices = swept(override) if override.is_sweep_override() else [value]
            for choice in choices:
                known = options(override.key_or_group)
                if choice not in known:
                    what = f"{override.key_or_group}={choice}: there is no such {override.key_or_group}"
                    die(f"{what}{nearest(str(choice), known)} (known: {', '.join(known)})")
            chosen.append(f"{override.key_or_group}={choices[0]}")
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = OmegaConf.to_container(hydra.compose("train", overrides=chosen), resolve=False)
    except NO_CONFIGURATION as error:
        die(complaint(error))
    if "family" not in composed:
        model = next((word for word in chosen if word.startswith("model=")), "the model")
        die(f"{model}: its file names no family: begin it with defaults: [_transformer, _self_] or [_ssm, _self_]")
    known = [*keys(composed), *groups]
    for override in overrides:
        key = override.key_or_group
        if not key.startswith("hydra") and not override.is_add() and key not in known:
            die(f"{override.input_line}: there is no option {key}{nearest(key, known)}")
    check_composition(overrides, several=words.multirun)


def options_of_hydra(arguments: list[str]) -> argparse.Namespace:
    """What Hydra will read: --multirun, --cfg job, ...; `overrides` are the words beside them."""
    parser = get_args_parser()
    parser.error = die  # type: ignore[method-assign]
    words, others = parser.parse_known_args(arguments)
    for word in others:
        if word.startswith("-"):
            die(f"{word}: there is no such option (--hydra-help lists them); a setting is a word such as task=listops")
        die(f"{word}: the words with = stand together, before or behind -m and other options")
    return words


def swept(override: Override) -> list[str]:
    """The values of a sweep; ends with one line if there are none."""
    value = override.value()
    try:
        found = value.filter(options(override.key_or_group)) if isinstance(value, Glob) else []
        found = found or [str(choice) for choice in override.sweep_string_iterator()]
    except HydraException:
        found = []
    if not found:
        die(f"{override.input_line}: stands for no value; glob(...) is for choices such as model=glob(s4*)")
    return found


def check_composition(overrides: list[Override], *, several: bool) -> None:
    """Ends with one line if the overrides, and of a sweep the first of each, do not make a configuration.

    several  a sweep was asked for
    """
    words = []
    for override in overrides:
        line = override.input_line or ""
        if override.is_sweep_override():
            if not several:
                die(f"{line}: several values; -m runs each, brackets make a list: {override.key_or_group}=[...]")
            if (override.key_or_group or "").startswith("hydra"):
                die(f"{line}: several values, but what is Hydra's own has one for all runs")
            line = f"{line.split('=', 1)[0]}={next(iter(swept(override)), '')}"
        words.append(line)
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = hydra.compose("train", overrides=words, return_hydra_config=True)
        # a word such as training.warmup=${x} is looked up when it is noted
        list(composed.hydra.overrides.task)
        # Hydra makes this folder before anybody else looks at it
        Path(str(composed.hydra.run.dir)).mkdir(parents=True, exist_ok=True)
    except NO_CONFIGURATION as error:
        die(complaint(error))


def complaint(error: Exception) -> str:
    """What Hydra and its parts say of words or files that make no configuration, as one line."""
    if isinstance(error, yaml.YAMLError):
        return " ".join(str(error).split())  # which names the file at its end
    return str(error.__cause__ or error).strip().split("\n")[0]


def check_values(cfg: dict[str, Any]) -> None:
    """ValueError naming the option and its value, if one outside task and model is not of the kind that is needed.

    cfg  the whole configuration, resolved
    """
    from lra.io.strict_json import check
    from lra.training.config import Hardware, Training

    for section in ("task", "model", "optimizer", "family", "data", "wandb"):
        check(cfg[section], dict[str, Any], section)
    for section in ("task", "model"):
        if "_target_" not in cfg[section]:
            raise ValueError(f"{section}: names no _target_, so nothing can be made of it")
    check(cfg["training"], Training, "training")
    check(cfg["trainer"], Hardware, "trainer")
    hints: dict[str, Any] = {"seed": int, "force": bool, "results": str, "runs": str}
    for name, hint in hints.items():
        check(cfg[name], hint, name)
    numbers: dict[str, Any] = {"lr": float, "weight_decay": float, "eps": float, "betas": list[float]}
    for name, hint in numbers.items():
        check(cfg["optimizer"].get(name), hint, f"optimizer.{name}")
    if len(cfg["optimizer"]["betas"]) != 2:
        raise ValueError(f"optimizer.betas={cfg['optimizer']['betas']}: two numbers are needed")
    wandb: dict[str, Any] = {"mode": str, "project": str, "entity": str | None, "group": str | None, "tags": list[str]}
    for name, hint in wandb.items():
        check(cfg["wandb"].get(name), hint, f"wandb.{name}")


def arguments(target: Any) -> list[str]:
    """Names a constructor takes, those it hands on to its parents included."""
    names: list[str] = []
    for cls in inspect.getmro(target) if inspect.isclass(target) else [target]:
        if cls is target or "__init__" in vars(cls):
            parameters = inspect.signature(cls).parameters.values()
            names += [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return names


def check_targets(node: Any, where: str = "") -> None:
    """Ends with one line if a key of the configuration is no argument of what it configures (also in a recipe)."""
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        try:
            known = arguments(get_object(node["_target_"]))
        except (ImportError, HydraException) as error:
            die(f"{where}._target_={node['_target_']}: {error}")
        if where in ("model.mixer", "model.encoder") and not node.get("_partial_"):
            die(f"{where}: needs _partial_: true, for the model itself makes it, with its width")
        for key in node:
            if not key.startswith("_") and key not in known:
                die(f"{where}.{key}: {node['_target_']} has no argument {key}{nearest(key, known)}")
    for key, value in node.items():
        check_targets(value, f"{where}.{key}".lstrip("."))
