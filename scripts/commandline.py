"""The command line of scripts/train.py: what may stand on it, and one line for every word that may not."""

import difflib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
# choices that name a cell, and settings that change where and how fast it runs but not what comes out
NAMES = {"task", "model", "scale", "seed"}
SETTING = re.compile(
    r"wandb\b.*|force|results|runs|data\..*|hydra\b.*|trainer|"
    r"trainer\.(accelerator|devices|nodes|compile|threads|deterministic|checkpoint_seconds|split)"
)


def variant_of(overrides: list[str]) -> list[str]:
    """The overrides that make another result of a cell, sorted."""
    return sorted(
        o for o in overrides if (key := o.split("=")[0].lstrip("+~")) not in NAMES and not SETTING.fullmatch(key)
    )


def die(message: str) -> NoReturn:
    """One line on the error stream and exit status 2: the user can mend it."""
    print("train.py: " + " ".join(str(message).split()), file=sys.stderr)
    sys.exit(2)


def nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.0)
    return f"; did you mean {close[0]}?" if close else ""


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
    try:
        overrides = OverridesParser.create().parse_overrides([a for a in arguments if not a.startswith("-")])
    except HydraException as error:
        die(str(error).split("\n")[0])
    groups = [p.name for p in CONFIGS.iterdir() if p.is_dir()]
    chosen = []
    for override in overrides:
        if override.key_or_group in groups and not override.is_delete():
            value = override.value()
            choices = list(override.sweep_string_iterator()) if override.is_sweep_override() else [value]
            for choice in choices:
                known = options(override.key_or_group)
                if choice not in known:
                    what = f"{override.key_or_group}={choice}: there is no such {override.key_or_group}"
                    die(f"{what}{nearest(str(choice), known)} (known: {', '.join(known)})")
            chosen.append(f"{override.key_or_group}={choices[0]}")
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = OmegaConf.to_container(hydra.compose("train", overrides=chosen), resolve=False)
    known = [*keys(composed), *groups]
    for override in overrides:
        key = override.key_or_group
        if not key.startswith("hydra") and not override.is_add() and key not in known:
            die(f"{override.input_line}: there is no option {key}{nearest(key, known)}")


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
        for key in node:
            if not key.startswith("_") and key not in known:
                die(f"{where}.{key}: {node['_target_']} has no argument {key}{nearest(key, known)}")
    for key, value in node.items():
        check_targets(value, f"{where}.{key}".lstrip("."))
