"""The jobs of a --multirun, checked before the first one starts."""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from omegaconf import OmegaConf

from lra.config.compose import compose, composed
from lra.config.overrides import choices_of, is_group, key_of
from lra.errors import UserError


def jobs_of(words: list[str]) -> list[list[str]] | None:
    """Overrides of each job of a sweep; None with another sweeper than Hydra's own, which chooses its jobs later.

    raises  UserError if a job would not be what the words ask for
    """
    if any(key_of(word).startswith("hydra/sweeper") or key_of(word).startswith("hydra.sweeper") for word in words):
        return None
    parser = OverridesParser.create()
    lists = [
        f"{one.key_or_group}={','.join(map(str, choices_of(one)))}" if isinstance(one.value(), Glob) else text
        for text, one in zip(words, parser.parse_overrides(words), strict=True)
    ]
    overrides = parser.parse_overrides(lists)
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    check_repeated_keys(words, overrides, jobs)
    check_launcher([w for w, one in zip(words, overrides, strict=True) if not one.is_sweep_override()], jobs)
    return jobs


def check_repeated_keys(words: list[str], overrides: list[Override], jobs: list[list[str]]) -> None:
    """UserError if a job gets another configuration than the same words give in a single run.

    Hydra's sweeper keeps one override for each key (its issue 3106).
    """
    keys = [override.get_key_element() for override in overrides]
    repeated = {key for key in keys if keys.count(key) > 1}
    if not repeated:
        return
    last = dict(zip(keys, overrides, strict=True))
    for job in jobs:
        got = dict(zip(last, job, strict=True))
        asked = [
            got[key] if override is last[key] else str(override.input_line)
            for key, override in zip(keys, overrides, strict=True)
            if override is last[key] or not override.is_sweep_override()
        ]
        if composed(asked)["cfg"] != composed(job)["cfg"]:
            given = " ".join(word for key, word in zip(keys, words, strict=True) if key in repeated)
            raise UserError(f"{given}: a sweep keeps only the last of these", hint="write them as one override")


def check_launcher(fixed: list[str], jobs: list[list[str]]) -> None:
    """UserError if a file among the swept ones chooses a launcher or a sweeper.

    Hydra takes both from the words that are not swept, and ignores later choices (its issue 3231).
    """
    chosen, known = controllers(fixed), set()
    for job in jobs:
        files = tuple(word for word in job if is_group(key_of(word)))
        if files in known:
            continue
        known.add(files)
        for kind, later in controllers(list(files)).items():
            if later != chosen[kind]:
                swept = " ".join(word for word in files if word not in fixed)
                hint = f"name the {kind} on the command line, hydra/{kind}=..."
                raise UserError(f"{swept}: changes hydra/{kind}, which a sweep chooses before its files", hint=hint)


def controllers(words: list[str]) -> dict[str, Any]:
    """Name and settings of the launcher and the sweeper that these words compose."""
    about = compose(words, "train").hydra
    kinds = ("launcher", "sweeper")
    return {k: (about.runtime.choices[f"hydra/{k}"], OmegaConf.to_container(about[k], resolve=False)) for k in kinds}
