"""One training job: from a composed configuration to the record, with W&B and the lock of the run."""

import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from data.prepared import DataError
from lra import distributed, tracking
from lra.config.compose import cell_of, check_recipe, plain
from lra.config.overrides import die
from lra.config.param_budget import fit_to_budget
from lra.config.schema import check_configuration
from lra.io.atomic import ensure_writable
from lra.io.redact import portable, without_secrets
from lra.launch.grid import STOPPED
from lra.launch.lock import console, finished, path_of, run_lock
from lra.launch.minutes import in_steps
from lra.objectives.objective import objective_of
from lra.profiling.parameters import count_parameters
from lra.records.record import Record
from lra.records.run_spec import RunSpec
from lra.records.store import mark_crashed
from lra.tables.aggregate import learned
from lra.training.checkpoint import Identity, check_resumable, discard
from lra.training.config import Hardware, Training
from lra.training.pretraining import Pretraining, SelfPretraining
from lra.training.run import run as run_training
from lra.training.trainer import ensure_available

RESUME = "the same command resumes it"  # force=true would start over


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
    resume: str,
    results: str,
    runs: str,
    budget: str | None,
    pretrain: str | None,
    pretraining: DictConfig,
    cell: RunSpec,
) -> int:
    """Build the objects of a run and train; returns the exit status. family, data and budget are resolved before.

    Of several processes only the main one holds the lock, prints and writes the record.
    """
    main = distributed.is_main_process()
    screen = console if main else Console(quiet=True)
    folder = Path(runs) / cell.scale / cell.task / cell.model / f"{cell.seed}-{cell.config_hash[:8]}"
    path = path_of(results, cell)
    done = partial(finished, path, cell, force=force, data=partial(instantiate, task), console=screen)
    if done():
        return 0
    hardware, length = Hardware(**plain(trainer)), Training(**plain(training))
    ensure_available(hardware.accelerator, "trainer.accelerator")
    if main:
        ensure_writable(path.parent, "results=/some/dir")
    with run_lock(folder) if main else nullcontext():
        # another process may have finished it in the meantime
        if main and done(asked_before=True):
            return 0
        pl.seed_everything(seed, verbose=False)
        module = instantiate(task)
        net = instantiate(model, spec=module.spec)
        module.prepare_data()
        module.setup()
        identity = Identity.of(cell.config, module)
        # a job that its cluster starts again continues
        if force and main and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
            discard(folder)
        best = check_resumable(folder, identity, anyway=resume == "anyway")
        about: dict[str, Any] = {"optimizer": plain(optimizer), "hardware": hardware}
        length, notes = in_steps(length, data=module, model=net, folder=folder, **about)
        about["training"] = length
        cell.notes.extend(notes)
        about |= {"folder": folder, "console": screen}
        if pretrain is not None:
            plan = Pretraining(kind=pretrain, **plain(pretraining))
            before = SelfPretraining(net, module, plan, **about, seed=seed, title=cell.title, identity=identity)
            about["prepare"] = before.run
        record = train(cell, path, wandb, main=main, best=best, data=module, model=net, **about)
    if not main:
        # Lightning kills the main process if another fails
        return 3 if record.status == "oom" else 0
    return report(record, path)


def train(
    cell: RunSpec, path: Path, wandb: DictConfig, *, main: bool, best: float | None = None, **arguments: Any
) -> Record:
    """Train, with W&B, and write the record if this is the main process.

    best       validation accuracy so far of a run that is resumed
    arguments  of `lra.training.run.run`
    """
    data, model, screen, folder = (arguments[name] for name in ("data", "model", "console", "folder"))
    tracker = tracking.start(cell, wandb, data, console, folder=folder, best=best) if main else None
    size = f"({count_parameters(model):,} parameters)"
    screen.print(f"[bold]{cell.title}[/] {size} on [bold]{cell.task}[/] ({data.kind}), scale {cell.scale}")
    if cell.scale == "paper" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        plan = f"scripts/plan.py --models {cell.model} --tasks {cell.task} measures how long it takes"
        screen.print(f"no GPU here, and the recipe is made for one; hint: scale=mini, or {plan}")
    try:
        record = run_training(
            cell,
            **arguments,
            loggers=[tracker] if tracker else None,
            callbacks=[tracking.Histograms(tracker)] if tracker and wandb.histograms else (),
            wandb=tracker.address if tracker else None,
            begin=lambda record: record.write(path) if main and not path.exists() else None,
        )
    except Exception as error:
        if main:
            mark_crashed(path, f"{type(error).__name__}: {error}")
        raise
    if main:
        record.write(path)
        if record.status == "ok":
            # only now: if writing the record fails, the checkpoint is still needed
            discard(folder)
    if tracker:
        tracker.finish(record, folder / "model.safetensors" if wandb.artifacts else None)
    return record


def report(record: Record, path: Path) -> int:
    """Print how the run ended; returns the exit status."""
    if record.status != "ok" or record.test_totals is None or record.val_score is None:
        console.print(f"[bold]{record.status}[/]: {record.reason}; record: {path}", soft_wrap=True)
        if record.status != "interrupted":
            return 3
        console.print(RESUME)
        return STOPPED
    objective = objective_of(record.objective)
    trivial, validation = (objective.metric.with_unit(value) for value in (record.data.trivial, record.val_score))
    console.print(
        f"test [bold]{objective.result(record.test_totals)}[/]; {objective.trivial_answer}: {trivial}; "
        f"validation {validation} at step {record.selection.step}; record: {path}",
        soft_wrap=True,
    )
    if not learned(record):
        console.print(
            f"[bold]stayed at {objective.level}[/]: no better than {objective.trivial_answer}", soft_wrap=True
        )
    return 0


def one(cfg: DictConfig, *, choices: Mapping[str, str], overrides: list[str]) -> int:
    """Run a configuration. Returns the exit status: 0, 2 refused, 3 no result, 130 stopped."""
    try:
        check_recipe(cfg, choices)
        check_configuration(plain(cfg))
        if cfg.budget is not None:
            console.print(fit_to_budget(cfg, task=choices["task"], scale=choices["scale"], overrides=overrides))
        return run(**{str(name): cfg[name] for name in cfg}, cell=cell_of(cfg, choices=choices, overrides=overrides))
    except KeyboardInterrupt:
        console.print(f"stopped; {RESUME}")
        return STOPPED
    except InstantiationException as error:
        die(str(error.__cause__ or "") or str(error))
    except (OmegaConfBaseException, DataError, ValueError, OSError) as error:
        die(str(error))
    except Exception as error:
        if os.environ.get("LRA_TRACE"):
            raise
        message = without_secrets(" ".join(str(error).split()))[:300]
        print(f"train.py: {type(error).__name__}: {message}; {save_trace(Path(cfg.runs))}", file=sys.stderr)
        sys.exit(1)


def save_trace(runs: Path) -> str:
    """Append the trace of an unexpected error to a file; returns where it is."""
    path = runs / "traces.txt"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(portable(f"{' '.join(sys.argv)}\n{traceback.format_exc()}\n"))
    except OSError:
        return "hint: LRA_TRACE=1 shows the trace"
    return f"trace: {path}"
