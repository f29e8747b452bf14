"""What every script does first: find the Python that has its libraries, and end on Ctrl-C without a trace.

Written for any Python 3, and without a library: the one that was asked may have none.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("torch", "pytorch_lightning", "hydra", "wandb")


def script() -> None:
    """Called by a file that is run, before it imports any library; may not return.

    A Python without the libraries gives way to that of .venv, with the same command line; status 2, and a line, where
    there is none.
    """
    sys.excepthook = without_a_trace
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # an import that is interrupted may call it a missing library
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    own = ROOT / ".venv" / "bin" / "python"
    if missing and own.exists() and Path(sys.prefix) != own.parent.parent:
        os.execv(own, [str(own), *sys.argv])
    if missing:
        print(f"{sys.argv[0]}: {sys.executable} has no {missing[0]}: make setup fills .venv once", file=sys.stderr)
        sys.exit(2)


def interruptible() -> None:
    """From here on Ctrl-C lets what is open be closed; nothing happens where a script's caller ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def without_a_trace(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
