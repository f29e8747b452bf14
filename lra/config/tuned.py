"""Settings of one model for each task, a file a model: configs/tuned/<model>.yaml.

A recipe serves a family (configs/recipe/<family>/<task>.yaml); what a model's own authors published goes on top of it.
`offer` gives Hydra every section as the choice tuned=<model>/<task>, which configs/train.yaml takes where it exists.

    source: where the numbers come from; "none published ..." where they are ours; a section may have its own
    like: mega       # another file, whose sections lie beneath these
    every: {...}     # on every task
    listops: {...}   # {}: published to be as the family's recipe
"""

from pathlib import Path

import yaml
from hydra.core.config_store import ConfigStore

from lra.config.overrides import die
from lra.paths import CONFIGS

UNPUBLISHED = "none published"


def laid_over(below: dict, above: dict) -> dict:
    """The union of two nested dicts; where both have a value, that of `above`."""
    both = {k: laid_over(below[k], v) for k, v in above.items() if isinstance(v, dict) and k in below}
    return below | above | both


def sections(model: str, folder: Path = CONFIGS) -> tuple[dict[str, str], dict[str, dict]]:
    """What a model's file cites for each task, and its settings there; both empty for a model without a file.

    raises ValueError, one line naming the file, where it is no YAML, has no source, or a section that is no task
    """
    path = folder / "tuned" / f"{model}.yaml"
    if not path.exists():
        return {}, {}
    try:
        content = yaml.load(path.read_text(), yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a section for each task is expected, and a source")
    source, like, every = (content.pop(key, None) for key in ("source", "like", "every"))
    sources, found = sections(like, folder) if like else ({}, {})
    if like and not found:
        raise ValueError(f"{path}: like: {like}, but there is no {like}.yaml beside it")
    if not (source or sources):
        raise ValueError(f"{path}: no source; say where its numbers come from, or '{UNPUBLISHED}; ...'")
    tasks = sorted(p.stem for p in (folder / "task").glob("*.yaml"))
    if unknown := sorted(set(content) - set(tasks)):
        raise ValueError(f"{path}: {unknown[0]} is no task (known: {', '.join(tasks)})")
    for task in (*found, *(t for t in content if t not in found)):
        own = laid_over(every or {}, content.get(task, {}))
        sources[task] = own.pop("source", None) or source or sources[task]
        found[task] = laid_over(found.get(task, {}), own)
    return sources, found


def offer(folder: Path = CONFIGS) -> None:
    """Make the sections of all files known to Hydra, in this process; ends with one line if one is not in order."""
    store = ConfigStore.instance()
    # Hydra reads the store and never writes to it, but copies all of it for each composition: a quarter of a second
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    for path in sorted((folder / "tuned").glob("*.yaml")):
        try:
            found = sections(path.stem, folder)[1]
        except ValueError as error:
            die(str(error))
        for task, section in found.items():
            store.store(group=f"tuned/{path.stem}", name=task, node=section, package="_global_", provider="tuned")


def source_of(recipe: str | None) -> str | None:
    """What a recipe cites in its first comment lines."""
    path = CONFIGS / "recipe" / f"{recipe}.yaml"
    if recipe is None or not path.exists():
        return None
    cited = [line for line in path.read_text().splitlines() if line.startswith("# source:")]
    return cited[0].removeprefix("# source:").strip() if cited else None


def recipe_of(model: str, task: str, recipe: str) -> tuple[str | None, str | None, list[str]]:
    """(recipe, what it cites, notes) for the record; the recipe is None where nothing was published for this model.

    recipe  the family's, <family>/<task>
    """
    sources, name = sections(model)[0], f"{model}/{task}"
    source = sources.get(task)
    if source is None:
        source, name = source_of(recipe), recipe
    if source and name == f"{model}/{task}" and not source.startswith(UNPUBLISHED):
        return name, source, []
    return None, source, [f"no published settings of its own: takes {name if source else 'none'}"]
