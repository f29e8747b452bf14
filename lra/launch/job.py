"""One training job: from a composed configuration to the record, with W&B and the job's lock."""

import inspect
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from data.prepared import DataError
from lra import distributed, tracking
from lra.config.compose import cell_of
from lra.config.overrides import check_targets, check_values, die, nearest
from lra.config.param_budget import sized
from lra.io.atomic import ensure_writable
from lra.io.redact import portable, without_secrets
from lra.launch.lock import claim, finished
from lra.profiling.parameters import count_parameters
from lra.records.record import Record, record_path
from lra.records.run_spec import RunSpec
from lra.records.store import mark_crashed
from lra.tables.aggregate import learned
from lra.training.checkpoint import discard
from lra.training.config import Hardware, Training
from lra.training.pretraining import Pretraining, SelfPretraining
from lra.training.run import run as run_training
from lra.training.trainer import ensure_available

STOPPED = 130  # exit status of a run that was asked to stop


console = Console(stderr=True)


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
    cell: RunSpec,
) -> int:
    """Builds the objects of one cell and runs it; the exit status. family, data and budget have been used by then.

    Of several processes the first claims the cell, shows what happens and writes the record.
    """
    first = distributed.is_main_process()
    say = console if first else Console(quiet=True)
    folder = Path(runs) / cell.scale / cell.task / cell.model / f"{cell.seed}-{cell.config_hash[:8]}"
    names = {"scale": cell.scale, "model": cell.model, "task": cell.task, "seed": cell.seed, "variant": cell.variant}
    path = record_path(Path(results), **names)
    if finished(path, cell.config_hash, force, say):
        return 0
    hardware, lesson = Hardware(**trainer), Training(**training)
    ensure_available(hardware.accelerator, "trainer.accelerator")
    if first:
        ensure_writable(path.parent, "results=/some/dir")
    with claim(folder) if first else nullcontext():
        # another process may have finished it between the look and the claim
        if first and finished(path, cell.config_hash, force, say):
            return 0
        pl.seed_everything(seed, verbose=False)
        module = instantiate(task)
        net = instantiate(model, spec=module.spec)
        module.prepare_data()
        module.setup()
        about = {"optimizer": OmegaConf.to_container(optimizer, resolve=True), "training": lesson, "hardware": hardware}
        about |= {"folder": folder, "console": say}
        prepare = {}
        if pretrain is not None:
            plan = Pretraining(kind=pretrain, **pretraining)
            prepare = {"prepare": SelfPretraining(net, module, plan, **about, seed=seed, title=cell.title).run}
        record = train(cell, path, wandb, first=first, data=module, model=net, **about, **prepare)
    if not first:
        # Lightning kills the first process if another fails
        return 3 if record.status == "oom" else 0
    return outcome(record, path, say)


def train(cell: RunSpec, path: Path, wandb: DictConfig, *, first: bool, **parts: Any) -> Record:
    """Runs what is set up, with W&B beside it, and keeps its record; a process that is not the first keeps nothing.

    parts  of `lra.training.run.run`
    """
    data, model, say, folder = parts["data"], parts["model"], parts["console"], parts["folder"]
    tracker = tracking.start(cell, wandb, data, console) if first else None
    size = f"({count_parameters(model):,} parameters)"
    say.print(f"[bold]{cell.title}[/] {size} on [bold]{cell.task}[/] ({data.kind}), scale {cell.scale}")
    if cell.scale == "paper" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        plan = f"scripts/plan.py --models {cell.model} --tasks {cell.task} says how long it takes"
        say.print(f"no GPU here, and the recipe is made for one: {plan}, and scale=mini is for machines like this one")
    try:
        record = run_training(
            cell,
            **parts,
            loggers=[tracker] if tracker else None,
            callbacks=[tracking.Histograms(tracker)] if tracker and wandb.histograms else (),
            wandb=tracker.address if tracker else None,
            begin=lambda record: record.write(path) if first and not path.exists() else None,
        )
    except Exception as error:
        if first:
            mark_crashed(path, f"{type(error).__name__}: {error}")
        raise
    if first:
        record.write(path)
        if record.status == "ok":
            # not before: a record that could not be written costs nothing but the last steps
            discard(folder)
    if tracker:
        tracker.finish(record, folder / "model.safetensors" if wandb.artifacts else None)
    return record


def outcome(record: Record, path: Path, say: Console) -> int:
    """Says how a run went; the exit status."""
    if record.status != "ok":
        say.print(f"[bold]{record.status}[/]: {record.reason}; record: {path}", soft_wrap=True)
        if record.status != "interrupted":
            return 3
        say.print("the same command goes on from here")
        return STOPPED
    say.print(
        f"test accuracy [bold]{100 * record.test_accuracy:.2f} %[/] ({record.test_correct} of {record.n_test}; "
        f"commonest label {100 * record.data.chance:.1f} %), validation {100 * record.val_accuracy:.2f} % "
        f"at step {record.selection.step}; record: {path}",
        soft_wrap=True,
    )
    if not learned(record):
        say.print("[bold]stayed at chance[/]: no better than always giving the commonest label", soft_wrap=True)
    return 0


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
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        return STOPPED
    except InstantiationException as error:
        die(str(error.__cause__ or "") or str(error))
    except (OmegaConfBaseException, DataError, ValueError, OSError) as error:
        die(str(error))
    except Exception as error:
        if os.environ.get("LRA_TRACE"):
            raise
        said = without_secrets(" ".join(str(error).split()))[:300]
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
