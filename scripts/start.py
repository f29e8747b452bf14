"""What every script does first: find the Python that has its libraries, and be ready for Ctrl-C and for `| head`.

Written for any Python from 3.8 on, and without a library: the one that was asked may have none.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib.util
import io
import locale
import os
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
# an environment of another project has some of them
NEEDED = ("torch", "pytorch_lightning", "hydra", "wandb", "numba", "safetensors", "scipy", "matplotlib", "rich", "PIL")


def script() -> None:
    """Called by a file that is run, before it imports any library; may not return.

    A Python without the libraries gives way to that of .venv, with the same command line; status 2, and a line, where
    there is none. One that was started with another encoding than UTF-8 starts itself again with it.
    """
    sys.excepthook = without_a_trace
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # an import that is interrupted may call it a missing library
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    own = ROOT / ".venv" / "bin" / "python"
    if (missing or sys.version_info < (3, 11)) and own.exists() and Path(sys.prefix) != own.parent.parent:
        os.execv(own, [str(own), *sys.argv])
    if missing:
        print(f"{sys.argv[0]}: {sys.executable} has no {missing[0]}: make setup fills .venv once", file=sys.stderr)
        sys.exit(2)
    if "utf" not in locale.getpreferredencoding(False).lower() and os.environ.get("PYTHONUTF8") != "1":
        # every file here is in UTF-8, and what is printed has signs that other alphabets lack
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    ensure_kept()
    if sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__:  # not put there by a caller
        sys.stdout, sys.stderr = lasting(sys.stdout), lasting(sys.stderr)


def ensure_kept() -> None:
    """Ends with one line where numba, which then gives up, can keep nothing of what it compiles."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME", "/")) / ".cache")
    there = next((folder for folder in (home, *home.parents) if os.access(folder, os.F_OK)), home)
    if not os.environ.get("NUMBA_CACHE_DIR") and not any(os.access(place, os.W_OK) for place in (ROOT / "lra", there)):
        cure = "set NUMBA_CACHE_DIR to a folder that can"
        print(
            f"{sys.argv[0]}: neither {ROOT} nor {home} can be written, to keep compiled code: {cure}", file=sys.stderr
        )
        sys.exit(2)


class Pipe(io.FileIO):
    """An end of a pipe whose reader may leave, as head does, or tee at Ctrl-C: what follows is said to nobody."""

    def write(self, content) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # also of the processes started from now on
            os.close(nowhere)
            return super().write(content)


def lasting(stream: io.TextIOWrapper | None) -> io.TextIOWrapper | None:
    """The same stream; of a pipe one that nobody need read to the end."""
    if stream is None:
        return None
    mode = os.fstat(stream.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return stream
    raw = Pipe(stream.fileno(), "w", closefd=False)
    buffer = raw if stream.write_through else io.BufferedWriter(raw)  # as Python's own, with and without -u
    flags = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
    return io.TextIOWrapper(buffer, encoding=stream.encoding, errors=stream.errors, **flags)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """While libraries are imported. What they make stays; looking for garbage in it is a sixth of the start else."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def interruptible() -> None:
    """From here on Ctrl-C lets what is open be closed; nothing happens where a script's caller ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def without_a_trace(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = error.filename or "what it writes or prints"
        print(f"{sys.argv[0]}: {what}: {error.strerror}: make room, or write elsewhere", file=sys.stderr)
    elif not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
