"""Whose turn a cell is: one process trains it, and only where it has no result."""

import fcntl
import os
import time
from pathlib import Path
from typing import TextIO

from rich.console import Console

from lra.results import load
from lra.whole import refusals_explained
from scripts.commandline import die


def claim(folder: Path) -> TextIO:
    """Hold this cell for as long as this process lives; a second process is told so and ends.

    LRA_PATIENCE in the environment: seconds to wait for a process that is just ending.
    """
    patience = float(os.environ.get("LRA_PATIENCE", 0))
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
