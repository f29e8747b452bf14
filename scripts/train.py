"""Train and evaluate one model on one task, and write the record.

    python scripts/train.py task=listops model=s4                  # the paper's recipe
    python scripts/train.py task=listops model=s4 scale=mini seed=1
    python scripts/train.py -m task=listops,pathfinder model=s4,transformer scale=mini

Running it again says that the result exists; an unfinished run goes on where it stopped.
"""

import difflib
import fcntl
import functools
import inspect
import os
import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
# a script's own folder comes first on the path, and data.py in it would hide the package data
sys.path.insert(0, str(ROOT))

from data.base import DataError  # noqa: E402
from scripts import tracking, tuned  # noqa: E402

CONFIGS = ROOT / "configs"
# choices that name a cell, and settings that change where and how fast it runs but not what comes out
NAMES = {"task", "model", "scale", "seed"}
SETTING = re.compile(
    r"wandb\b.*|force|results|runs|data\..*|hydra\b.*|trainer|"
    r"trainer\.(accelerator|devices|nodes|compile|threads|deterministic|checkpoint_seconds)"
)
console = Console(stderr=True)
tuned.offer()


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
    sources, name = tuned.sections(model)[0], f"{model}/{task}"
    source = sources.get(task)
    if source is None:
        source, name = source_of(recipe), recipe
    if source and name == f"{model}/{task}" and not source.startswith(tuned.UNPUBLISHED):
        return name, source, []
    return None, source, [f"no published settings of its own: takes {name if source else 'none'}"]


def sized(cfg: DictConfig, *, task: str, scale: str, overrides: list[str]) -> str:
    """Sets model.d_model to the width that the budget of cfg allows, and says in a line what that is.

    task, scale, overrides  the run's; the Transformer to compare with gets the overrides of the task too
    raises                  ValueError if no width fits, or the overrides name one themselves
    """
    from lra.budget import count, fitting_width

    if cfg.budget != "lra":
        raise ValueError(f"budget={cfg.budget}: not one of null, lra")
    if any(o.lstrip("+").startswith("model.d_model=") for o in overrides):
        raise ValueError("budget=lra chooses model.d_model: leave out one of the two")
    same_task = [o for o in overrides if o.lstrip("+").startswith("task.")]
    # inside a run Hydra is there already; in a worker of a launcher it is not
    there = GlobalHydra.instance().is_initialized()
    with nullcontext() if there else hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        usual_words = [f"task={task}", f"scale={scale}", "model=transformer", *same_task]
        transformer = hydra.compose("train", overrides=usual_words)
    spec, usual = instantiate(cfg.task).spec, instantiate(transformer.task).spec
    reference = count(lambda: instantiate(transformer.model, spec=usual))

    def build() -> Any:
        try:
            return instantiate(cfg.model, spec=spec)
        except InstantiationException as error:
            raise error.__cause__ or error from None

    @functools.cache
    def count_at(width: int) -> int:
        cfg.model.d_model = width
        return count(build)

    recipe = cfg.model.d_model
    try:
        chosen = fitting_width(count_at, reference)
    except ValueError as error:
        raise ValueError(f"budget=lra: on {task} the model {error}") from None
    cfg.model.d_model = chosen
    return (
        f"budget lra: width {chosen} for the recipe's {recipe}, {count_at(chosen):,} parameters, "
        f"{100 * count_at(chosen) / reference:.1f} % of the Transformer's {reference:,}"
    )


def cell_of(cfg: DictConfig):
    """What the record says of this run before it starts."""
    from lra.experiment import Cell
    from lra.portable import portable
    from lra.published import load_published
    from lra.results import config_hash

    choices, overrides = HydraConfig.get().runtime.choices, list(HydraConfig.get().overrides.task)
    model, task, scale = choices["model"], choices["task"], choices["scale"]
    variant = sorted(
        o for o in overrides if (key := o.split("=")[0].lstrip("+~")) not in NAMES and not SETTING.fullmatch(key)
    )
    config = OmegaConf.to_container(cfg, resolve=True)
    result = {k: config[k] for k in ("task", "model", "optimizer", "training")} | {"precision": cfg.trainer.precision}
    for key in ("root", "source", "seed"):
        result["task"].pop(key, None)
    result = portable(result)
    recipe, source, notes = recipe_of(model, task, str(choices.get("recipe")))
    words = [f"task={task}", f"model={model}", f"scale={scale}", f"seed={cfg.seed}", *variant]
    return Cell(
        task=task,
        model=model,
        title=load_published(ROOT / "results" / "published").model(model).title,
        seed=cfg.seed,
        scale=scale,
        variant=variant,
        config=result,
        config_hash=config_hash(result),
        recipe=recipe,
        recipe_source=source,
        command=" ".join(["python scripts/train.py", *words]),
        notes=notes,
    )


def claim(folder: Path):
    """Hold this cell for as long as this process lives; a second process is told so and ends."""
    folder.mkdir(parents=True, exist_ok=True)
    held = (folder / "claim").open("a+")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        held.seek(0)
        die(f"{folder}: process {held.read().strip()} is training this cell; wait for it or stop it")
    held.truncate(0)
    held.write(str(os.getpid()))
    held.flush()
    return held


def run(
    *,
    seed: int,
    task: DictConfig,
    model: DictConfig,
    optimizer: DictConfig,
    training: DictConfig,
    trainer: DictConfig,
    family: DictConfig,
    data: DictConfig,
    wandb: DictConfig,
    force: bool,
    results: str,
    runs: str,
    budget: str | None,
    cell: Any,
) -> int:
    """Builds the objects of one cell and runs it. family, data and budget have been used by then."""
    import pytorch_lightning as pl

    from lra import experiment
    from lra.results import load, record_path

    folder = Path(runs) / cell.scale / cell.task / cell.model / f"{cell.seed}-{cell.config_hash[:8]}"
    path = record_path(
        Path(results), scale=cell.scale, model=cell.model, task=cell.task, seed=cell.seed, variant=cell.variant
    )
    if path.exists() and not force:
        old = load(path)
        if old.status == "ok" and old.config_hash == cell.config_hash:
            found = f"{path}: exists (test accuracy {100 * old.test_accuracy:.2f} %)"
            console.print(f"{found}; force=true runs it again", soft_wrap=True)
            return 0
        if old.config_hash != cell.config_hash:
            die(
                f"{path}: made with another configuration ({old.config_hash[:8]}, now {cell.config_hash[:8]}); "
                "move the file away, or say force=true to replace it"
            )
    held = claim(folder)
    pl.seed_everything(seed, verbose=False)
    module = instantiate(task)
    net = instantiate(model, spec=module.spec)
    module.prepare_data()
    module.setup()
    hardware = experiment.Hardware(**trainer)
    tracker = tracking.start(cell, wandb, module, console)
    count = experiment.parameters(net)
    console.print(
        f"[bold]{cell.title}[/] ({count:,} parameters) on [bold]{cell.task}[/] ({module.kind}), scale {cell.scale}"
    )
    record = experiment.run(
        cell,
        data=module,
        model=net,
        optimizer=OmegaConf.to_container(optimizer, resolve=True),
        training=experiment.Training(**training),
        hardware=hardware,
        folder=folder,
        loggers=[tracker] if tracker else None,
        callbacks=[tracking.Histograms(tracker)] if tracker and wandb.histograms else (),
        console=console,
        wandb=tracker.address if tracker else None,
    )
    if os.environ.get("LOCAL_RANK", "0") == "0":
        record.write(path)
    if tracker:
        tracker.finish(record, folder / "model.safetensors" if wandb.artifacts else None)
    held.close()
    if record.status == "ok":
        console.print(
            f"test accuracy [bold]{100 * record.test_accuracy:.2f} %[/] ({record.test_correct} of {record.n_test}; "
            f"commonest label {100 * record.data.chance:.1f} %), validation {100 * record.val_accuracy:.2f} % "
            f"at step {record.selection.step}; record: {path}",
            soft_wrap=True,
        )
        return 0
    console.print(f"[bold]{record.status}[/]: {record.reason}; record: {path}", soft_wrap=True)
    if record.status == "interrupted":
        console.print("the same command goes on from here")
    return {"interrupted": 130}.get(record.status, 3)


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
def main(cfg: DictConfig) -> None:
    try:
        check_targets(OmegaConf.to_container(cfg, resolve=True))
        unknown = set(cfg) - set(inspect.signature(run).parameters)
        if unknown:
            word = sorted(unknown)[0]
            die(f"{word}: there is no such section{nearest(word, list(inspect.signature(run).parameters))}")
        if cfg.budget is not None:
            chosen, given = HydraConfig.get().runtime.choices, list(HydraConfig.get().overrides.task)
            console.print(sized(cfg, task=chosen["task"], scale=chosen["scale"], overrides=given))
        status = run(**cfg, cell=cell_of(cfg))
    except InstantiationException as error:
        die(str(error.__cause__ or error))
    except (OmegaConfBaseException, DataError, ValueError, OSError) as error:
        die(str(error))
    if status and HydraConfig.get().mode.name == "RUN":
        sys.exit(status)


if __name__ == "__main__":
    check_command_line(sys.argv[1:])
    main()
