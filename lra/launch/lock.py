"""Whose turn a cell is: one process trains it, and only where it has no result."""

import fcntl
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from rich.console import Console

from lra.config.overrides import die
from lra.io.atomic import disk_errors_explained
from lra.records.store import load


class Taken(SystemExit):
    """The cell is another process's; a line has said so."""


def locked(file: TextIO) -> bool:
    """Take the lock of an open file. False if another process keeps it.

    LRA_PATIENCE in the environment: seconds to wait for a process that is just ending.
    """
    until = time.monotonic() + float(os.environ.get("LRA_PATIENCE", 0))
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.2)


def claim(folder: Path) -> TextIO:
    """Hold this cell for as long as this process lives; a second process is told so and ends, with status 2."""
    with disk_errors_explained(folder, "runs=/some/dir"):
        folder.mkdir(parents=True, exist_ok=True)
        held = (folder / "claim").open("a+")
    if not locked(held):
        held.seek(0)
        line = f"{folder}: process {held.read().strip()} is training this cell; wait for it or stop it"
        print(f"train.py: {line}", file=sys.stderr)
        raise Taken(2)
    held.truncate(0)
    held.write(str(os.getpid()))
    held.flush()
    return held


def finished(path: Path, config_hash: str, force: bool, say: Console) -> bool:
    """Says so if this run has its record already; ends where another configuration's is in its place."""
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
