"""File locks: one process trains a run, and only if it has no result."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import DictConfig
from rich.console import Console

from lra.config.compose import cell_of
from lra.config.overrides import die
from lra.errors import UserError
from lra.io.atomic import disk_errors_explained
from lra.records.record import record_path
from lra.records.run_spec import RunSpec
from lra.records.store import load

console = Console(stderr=True)


class AlreadyRunning(SystemExit):
    """Another process trains this run; a line has been printed."""


def acquire(path: Path) -> FileLock | None:
    """Hold a lock file until it is released or this process ends; None if another process holds it.

    LRA_PATIENCE in the environment: seconds to wait, for a process that is just ending.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=float(os.environ.get("LRA_PATIENCE", 0)), poll_interval=0.2)
    except Timeout:
        return None
    return lock


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, where the file `pid` names the process; exits with status 2 if it is taken."""
    pid = folder / "pid"
    with disk_errors_explained(folder, "runs=/some/dir"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = acquire(folder / "lock")
    if lock is None:
        holder = pid.read_text() if pid.exists() else "?"
        print(
            f"train.py: {folder}: process {holder} is training this run; hint: wait for it or stop it", file=sys.stderr
        )
        raise AlreadyRunning(2)
    with lock:
        pid.write_text(str(os.getpid()))
        yield


def path_of(results: str, cell: RunSpec) -> Path:
    """Path of the record of a run."""
    return record_path(
        Path(results), scale=cell.scale, model=cell.model, task=cell.task, seed=cell.seed, variant=cell.variant
    )


def finished(path: Path, config_hash: str, force: bool, console: Console = console) -> bool:
    """Whether the run has a result, which is then printed. UserError if the record has another configuration."""
    if force or not path.exists():
        return False
    record = load(path)
    if record.config_hash != config_hash:
        hashes = f"{record.config_hash[:8]}, now {config_hash[:8]}"
        raise UserError(f"{path}: made with another configuration ({hashes})", hint="move the file, or force=true")
    if record.status != "ok" or record.test_accuracy is None:
        return False
    result = f"{path}: exists (test accuracy {100 * record.test_accuracy:.2f} %)"
    console.print(f"{result}; force=true runs it again", soft_wrap=True)
    return True


def has_result(cfg: DictConfig, *, choices: Mapping[str, str], overrides: list[str]) -> bool:
    """Whether the run of a configuration has a result, found without importing what training needs."""
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")  # only the main process prints
    if any(os.environ.get(name, "0") != "0" for name in ranks) or cfg.get("budget") is not None:
        return False
    try:
        cell = cell_of(cfg, choices=choices, overrides=overrides)
        path = path_of(cfg.results, cell)
    except Exception:
        return False  # lra.launch.job checks the configuration and says what is wrong
    try:
        return finished(path, cell.config_hash, cfg.force)
    except (ValueError, OSError) as error:
        die(error)
