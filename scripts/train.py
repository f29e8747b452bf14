"""Train and evaluate one model on one task, and write the record.

    python scripts/train.py task=listops model=s4                  # the paper's recipe
    python scripts/train.py task=listops model=s4 scale=mini seed=1
    python scripts/train.py -m task=listops,pathfinder model=s4,transformer scale=mini

Running it again says that the result exists; an unfinished run goes on where it stopped.
"""

import fcntl
import functools
import inspect
import os
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
# a script's own folder comes first on the path, and data.py in it would hide the package data
sys.path.insert(0, str(ROOT))

from data.base import DataError  # noqa: E402
from lra.portable import portable  # noqa: E402
from scripts import tracking, tuned  # noqa: E402
from scripts.commandline import CONFIGS, check_command_line, check_targets, check_values, die, nearest, variant_of  # noqa: E402

STOPPED = 130  # exit status of a run that was asked to stop
PATIENCE = float(os.environ.get("LRA_PATIENCE", 0))  # seconds to wait for the process that holds the cell
console = Console(stderr=True)
failed: list[str] = []  # cells of a sweep that gave no result
tuned.offer()


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


def cell_of(cfg: DictConfig, *, choices: Mapping[str, str], overrides: list[str]):
    """What the record says of this run before it starts.

    choices    of Hydra, group -> name
    overrides  of the command line
    """
    from lra.experiment import Cell
    from lra.portable import portable
    from lra.published import load_published
    from lra.results import config_hash

    model, task, scale = choices["model"], choices["task"], choices["scale"]
    variant = variant_of(overrides)
    config = OmegaConf.to_container(cfg, resolve=True)
    result = {k: config[k] for k in ("task", "model", "optimizer", "training")} | {"precision": cfg.trainer.precision}
    if cfg.pretrain is not None:
        result["pretrain"] = {"kind": cfg.pretrain, **config["pretraining"]}
    elif any(word.startswith("pretraining.") for word in variant):
        raise ValueError("pretraining.* without pretrain=masked or pretrain=causal changes nothing: leave it out")
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


def claim(folder: Path, *, patience: float = 0.0):
    """Hold this cell for as long as this process lives; a second process is told so and ends.

    patience  seconds to wait for a process that is just ending
    """
    from lra.whole import refusals_explained

    with refusals_explained(folder, "runs=/some/dir"):
        folder.mkdir(parents=True, exist_ok=True)
        held = (folder / "claim").open("a+")
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() < until:
                time.sleep(0.2)
                continue
            held.seek(0)
            die(f"{folder}: process {held.read().strip()} is training this cell; wait for it or stop it")
    held.truncate(0)
    held.write(str(os.getpid()))
    held.flush()
    return held


def finished(path: Path, config_hash: str, force: bool, say: Console) -> bool:
    """Says so if this run has its record already; ends where another configuration's is in its place."""
    from lra.results import load

    if force or not path.exists():
        return False
    old = load(path)
    if old.config_hash != config_hash:
        die(
            f"{path}: made with another configuration ({old.config_hash[:8]}, now {config_hash[:8]}); "
            "move the file away, or say force=true to replace it"
        )
    if old.status != "ok":
        return False
    found = f"{path}: exists (test accuracy {100 * old.test_accuracy:.2f} %)"
    say.print(f"{found}; force=true runs it again", soft_wrap=True)
    return True


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
    pretrain: str | None,
    pretraining: DictConfig,
    cell: Any,
) -> int:
    """Builds the objects of one cell and runs it. family, data and budget have been used by then.

    Of several processes the first claims the cell, shows what happens and writes the record.
    """
    import pytorch_lightning as pl

    from lra import crash, experiment, together
    from lra import pretrain as before
    from lra.checkpoint import discard
    from lra.results import record_path
    from lra.whole import ensure_writable

    first = together.first()
    say = console if first else Console(quiet=True)
    folder = Path(runs) / cell.scale / cell.task / cell.model / f"{cell.seed}-{cell.config_hash[:8]}"
    path = record_path(
        Path(results), scale=cell.scale, model=cell.model, task=cell.task, seed=cell.seed, variant=cell.variant
    )
    if finished(path, cell.config_hash, force, say):
        return 0
    if first:
        ensure_writable(path.parent, "results=/some/dir")
    held = claim(folder, patience=PATIENCE) if first else nullcontext()
    with held:
        # another process may have finished it between the look and the claim
        if first and finished(path, cell.config_hash, force, say):
            return 0
        pl.seed_everything(seed, verbose=False)
        module = instantiate(task)
        net = instantiate(model, spec=module.spec)
        module.prepare_data()
        module.setup()
        hardware, lesson = experiment.Hardware(**trainer), experiment.Training(**training)
        settings = OmegaConf.to_container(optimizer, resolve=True)
        more = {}
        if pretrain is not None:
            plan = before.Pretraining(kind=pretrain, **pretraining)
            about = {"optimizer": settings, "training": lesson, "hardware": hardware}
            pupil = before.Pupil(net, module, plan, **about, folder=folder, seed=seed, title=cell.title, console=say)
            more["prepare"] = pupil.learn
        tracker = tracking.start(cell, wandb, module, console) if first else None
        count = experiment.parameters(net)
        say.print(
            f"[bold]{cell.title}[/] ({count:,} parameters) on [bold]{cell.task}[/] ({module.kind}), scale {cell.scale}"
        )
        try:
            record = experiment.run(
                cell,
                data=module,
                model=net,
                optimizer=settings,
                training=lesson,
                hardware=hardware,
                folder=folder,
                loggers=[tracker] if tracker else None,
                callbacks=[tracking.Histograms(tracker)] if tracker and wandb.histograms else (),
                console=say,
                wandb=tracker.address if tracker else None,
                begin=lambda record: record.write(path) if first and not path.exists() else None,
                **more,
            )
        except Exception as error:
            if first:
                crash.mark(path, f"{type(error).__name__}: {error}")
            raise
        if not first:
            # Lightning kills the first process if another fails
            return 3 if record.status == "oom" else 0
        record.write(path)
        if record.status == "ok":
            # not before: a record that could not be written costs nothing but the last steps
            discard(folder)
        if tracker:
            tracker.finish(record, folder / "model.safetensors" if wandb.artifacts else None)
    if record.status == "ok":
        say.print(
            f"test accuracy [bold]{100 * record.test_accuracy:.2f} %[/] ({record.test_correct} of {record.n_test}; "
            f"commonest label {100 * record.data.chance:.1f} %), validation {100 * record.val_accuracy:.2f} % "
            f"at step {record.selection.step}; record: {path}",
            soft_wrap=True,
        )
        for note in record.notes:
            if note.startswith("stayed at chance"):
                say.print(f"[bold]{note}[/]", soft_wrap=True)
        return 0
    say.print(f"[bold]{record.status}[/]: {record.reason}; record: {path}", soft_wrap=True)
    if record.status == "interrupted":
        say.print("the same command goes on from here")
    return {"interrupted": STOPPED}.get(record.status, 3)


def composed(words: list[str]) -> dict[str, Any]:
    """The configuration of a command line outside Hydra's own main: the arguments of `one`."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra.compose("train", overrides=words, return_hydra_config=True)
    about = cfg.hydra
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    OmegaConf.set_struct(cfg, True)
    return {"cfg": cfg, "choices": dict(about.runtime.choices), "overrides": list(about.overrides.task)}


def one(cfg: DictConfig, *, choices: Mapping[str, str], overrides: list[str]) -> int:
    """Run the cell of a configuration. Returns the exit status: 0, 2 refused, 3 no result, 130 stopped on the way."""
    try:
        content = OmegaConf.to_container(cfg, resolve=True)
        check_targets(content)
        sections = [name for name in inspect.signature(run).parameters if name != "cell"]
        for word in sorted(set(content) - set(sections)):
            die(f"{word}: there is no such section{nearest(word, sections)}")
        for word in sorted(set(sections) - set(content)):
            die(f"{word}: is needed, and was taken out")
        check_values(content)
        if cfg.budget is not None:
            console.print(sized(cfg, task=choices["task"], scale=choices["scale"], overrides=overrides))
        return run(**cfg, cell=cell_of(cfg, choices=choices, overrides=overrides))
    except InstantiationException as error:
        die(str(error.__cause__ or "") or str(error))
    except (OmegaConfBaseException, DataError, ValueError, OSError) as error:
        die(str(error))
    except Exception as error:
        if os.environ.get("LRA_TRACE"):
            raise
        said = " ".join(str(error).split())[:300]
        print(f"train.py: {type(error).__name__}: {said}; {keep_trace(Path(cfg.runs))}", file=sys.stderr)
        sys.exit(1)


def keep_trace(runs: Path) -> str:
    """Put the trace of an error nobody foresaw at the end of a file; returns where it is."""
    path, command = runs / "traces.txt", " ".join(sys.argv)
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(portable(f"{command}\n{traceback.format_exc()}\n"))
    except OSError:
        return "LRA_TRACE=1 shows where"
    return f"{path} says where"


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(cfg: DictConfig) -> None:
    chosen = HydraConfig.get()
    words = {"choices": chosen.runtime.choices, "overrides": list(chosen.overrides.task)}
    if chosen.mode != RunMode.MULTIRUN:
        sys.exit(one(cfg, **words))
    # one of several cells: what goes wrong with it does not stop the others
    whole, sys.argv = sys.argv, [sys.argv[0], *words["overrides"]]  # from which Lightning starts further processes
    try:
        status = one(cfg, **words)
    except SystemExit as stop:
        status = stop.code
    except Exception:
        traceback.print_exc()
        status = 1
    finally:
        sys.argv = whole
    if status == STOPPED:
        sys.exit(STOPPED)
    if status:
        failed.append(" ".join(words["overrides"]))


if __name__ == "__main__":
    check_command_line(sys.argv[1:])
    main()
    if failed:
        console.print(f"{len(failed)} cells without a result: {'; '.join(failed)}", highlight=False, soft_wrap=True)
        sys.exit(1)
