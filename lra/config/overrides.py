"""Words of a command line: which choices exist, which words change a result, and one line for every mistake."""

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from lra import paths
from lra.errors import UserError
from lra.io.redact import without_secrets

# choices that name a run, and settings that change where and how fast it runs but not its result
NAMES = {"task", "model", "scale", "seed"}
SETTING = re.compile(
    r"wandb\b.*|force|resume|results|runs|data\..*|hydra\b.*|trainer|"
    r"trainer\.(accelerator|devices|nodes|compile|graph|threads|deterministic|checkpoint_seconds|split)"
)

# in the name of a task: an argument that is part of it
NAMING = re.compile(r"\$\{\.(\w+)\}")


def key_of(override: str) -> str:
    """The key of an override, without Hydra's prefixes."""
    return override.split("=")[0].lstrip("+~")


def is_group(key: str) -> bool:
    """Whether a key chooses a file, such as recipe or model/family."""
    return (paths.CONFIGS / key.partition("@")[0]).is_dir()


def result_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides that may change the result, sorted."""
    return sorted(o for o in overrides if (key := key_of(o)) not in NAMES and not SETTING.fullmatch(key))


def die(message: object, program: str = "train.py") -> NoReturn:
    """Print one line on stderr and exit with status 2 (the user can correct it)."""
    print(f"{program}: " + without_secrets(" ".join(str(message).split())), file=sys.stderr)
    sys.exit(2)


def nearest(word: str, known: Sequence[str]) -> str | None:
    """Hint with the nearest known name; None if there is none at all."""
    sections = [name for name in known if name.endswith(f".{word}")]  # lr: optimizer.lr
    close = sections[:3] or difflib.get_close_matches(word, known, n=1, cutoff=0.0)
    return f"did you mean {' or '.join(close)}?" if close else None


def options(group: str) -> list[str]:
    """Names to choose from in a folder of configs; those that start with an underscore are bases of others."""
    folder = paths.CONFIGS / group
    files = folder.glob("*/*.yaml" if group == "recipe" else "*.yaml")
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in files if p.name[0] != "_")


def of_family(family: str) -> list[str]:
    """Models whose file names this family."""
    files = {name: paths.CONFIGS / "model" / f"{name}.yaml" for name in options("model")}
    return [name for name, file in files.items() if re.search(rf"\bfamily: {family}\b", file.read_text())]


def forecasters() -> list[str]:
    """Models that only forecast: those of the family of linear maps."""
    return of_family("linear")


def limited() -> list[str]:
    """Models that are not run on every task of LRA: forecasters, networks for one length, those made for density."""
    return [*forecasters(), *of_family("fixed_length"), *of_family("multiscale")]


def task_words(name: str) -> list[str]:
    """The words of a command line that choose a task by its name: etth1-uni-48 is etth1 with features=uni, horizon=48.

    raises  UserError if no task is called so
    """
    known = options("task")
    if name in known:
        return [f"task={name}"]
    for task in known:
        template = yaml.safe_load((paths.CONFIGS / "task" / f"{task}.yaml").read_text()).get("name")
        if keys := NAMING.findall(template or ""):
            pattern = re.escape(NAMING.sub("\0", template)).replace("\0", "([A-Za-z0-9_]+)")
            if found := re.fullmatch(pattern, name):
                values = zip(keys, found.groups(), strict=True)
                return [f"task={task}", *(f"task.{key}={value}" for key, value in values)]
    raise UserError(f"task {name}: no such task (known: {', '.join(known)})", hint=nearest(name, known))


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Hydra's own options (--multirun, --cfg job, ...) and, as `overrides`, all other words.

    raises  UserError for an option, a word or a choice that does not exist
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    parsed, others = parser.parse_known_args(arguments)
    for word in others:
        if word.startswith("-"):
            raise UserError(
                f"{word}: no such option", hint="a setting is a word such as task=listops; see --hydra-help"
            )
        raise UserError(f"{word}: overrides are separated by an option", hint="put all of them before or after it")
    for word in parsed.overrides:
        if "=" not in word and word[:1] != "~":
            raise UserError(f"{word!r}: not a setting", hint="task=listops")
    try:
        overrides = OverridesParser.create().parse_overrides(parsed.overrides)
    except HydraException as error:
        raise UserError(str(error).split("\n")[0]) from None
    groups = [p.name for p in paths.CONFIGS.iterdir() if p.is_dir()]
    for override in overrides:
        if (group := override.key_or_group) in groups and not override.is_delete():
            check_choices(group, choices_of(override))
    return parsed


def _refuse(message: str) -> NoReturn:
    raise UserError(message)


def check_choices(group: str, chosen: Sequence[object]) -> None:
    """UserError with the nearest name if a choice is not in the folder of the group."""
    known = options(group)
    for choice in chosen:
        if choice not in known and not (group == "recipe" and choice is None):
            names = f" (known: {', '.join(known)})" if group != "recipe" else ""
            raise UserError(f"{group}={choice}: no such {group}{names}", hint=nearest(str(choice), known))


def choices_of(override: Override) -> list[object]:
    """The value of an override of a group, or the values if it is a sweep."""
    value = override.value()
    if not override.is_sweep_override():
        return [value]
    try:
        found: list[object] = value.filter(options(override.key_or_group)) if isinstance(value, Glob) else []
        found = found or [str(choice) for choice in override.sweep_string_iterator()]
    except HydraException:
        found = []
    if not found:
        raise UserError(f"{override.input_line}: matches no choice", hint="model=glob(s4*)")
    return found
