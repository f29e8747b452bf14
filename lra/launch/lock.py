"""File locks: one process trains a run, and only if it has no result."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig
from rich.console import Console

from lra.config.compose import cell_of
from lra.config.overrides import die
from lra.errors import UserError
from lra.io.atomic import disk_errors_explained
from lra.launch.grid import KINDS
from lra.objectives.objective import objective_of
from lra.records.code import code_fingerprint
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


def finished(
    path: Path,
    cell: RunSpec,
    *,
    force: bool,
    data: Callable[[], Any] | None = None,
    console: Console = console,
    asked_before: bool = False,
) -> bool:
    """Whether the run has a result, which is then printed. False as well if better data than the record's is there now.

    data    makes the data module of the command; None: its data is known to be the record's
    raises  UserError if the record has another configuration, or other data that is not worse
    """
    if force or not path.exists():
        return False
    record = load(path)
    if record.config_hash != cell.config_hash:
        hashes = f"{record.config_hash[:8]}, now {cell.config_hash[:8]}"
        raise UserError(f"{path}: made with another configuration ({hashes})", hint="move the file, or force=true")
    if record.status != "ok" or record.test_totals is None:
        return False
    if data is not None:
        made, (kind, fingerprint) = record.data, data_of(data())
        if KINDS.index(kind) < KINDS.index(made.kind):
            if not asked_before:
                console.print(f"{path}: made with {made.kind} data; trains again on {kind} data", soft_wrap=True)
            return False
        if kind != made.kind or fingerprint not in (None, made.fingerprint):
            now = f"{kind} data" + (f" {fingerprint[:12]}" if fingerprint else "")
            problem = f"{path}: made with {made.kind} data {made.fingerprint[:12]}, this command has {now}"
            raise UserError(problem, hint="results=/some/dir keeps both, force=true replaces it")
    result = f"{path}: exists (test {objective_of(record.objective).result(record.test_totals)})"
    if record.code is not None and (now_code := code_fingerprint(cell.config)) != record.code:
        part = "model" if now_code.model != record.code.model else "framework"
        result += f"; made with other code of the {part}"
    console.print(f"{result}; force=true runs it again", soft_wrap=True)
    return True


def data_of(module: Any) -> tuple[str, str | None]:
    """Kind and fingerprint of a data module's data; without a fingerprint if it is not prepared yet."""
    if not module.prepared_folder.is_dir():
        return module.available_kind, None
    module.setup()
    return module.kind, module.fingerprint


def same_data(kind: str, source: str, root: Path, task: str) -> bool:
    """Whether a command's data is certainly that of a record, found without making the data module.

    kind          of the record's data
    source, root  of the command
    """
    if source in ("toy", "generated") or kind == "toy":
        return kind == source
    if kind == "official":
        return source in ("auto", "official")
    real = os.environ.get("LRA_MIRROR") or (root / "raw").exists() or any((root / task).glob("official-*"))
    return source == "auto" and not real


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
        if cfg.force or not path.exists():
            return False
        task = cfg.task.get("name") or cell.task
        if not same_data(load(path).data.kind, cfg.data.source, Path(cfg.data.root), task):
            return False
        return finished(path, cell, force=False)
    except (ValueError, OSError) as error:
        die(error)
