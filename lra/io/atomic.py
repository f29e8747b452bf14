"""Atomic file writes (temporary file, fsync, rename) with one-line disk errors."""

import contextlib
import errno
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)  # a file in place of a folder, or the other way round


@contextlib.contextmanager
def disk_errors_explained(path: Path, hint: str = "") -> Iterator[None]:
    """Turn disk errors while `path` is written into an OSError of one line with the path and a way out.

    hint  how to choose another folder: "runs=/some/dir"
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL + FORBIDDEN + IN_THE_WAY:
            raise
        reason = os.strerror(error.errno)
        advice = "write elsewhere" + (f" with {hint}" if hint else "")
        if error.errno in FULL:
            reason, advice = f"{reason}, {free_mib(path)} MiB free", f"make room, or {advice}"
        # without an errno, so that it is not explained twice
        raise OSError(f"{path}: cannot be written ({reason}); hint: {advice}") from None


def free_mib(path: Path) -> int:
    """MiB free on the disk of `path`, which need not exist."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free >> 20


def atomic_write(
    path: Path, content: str | bytes | memoryview, *, hint: str = "", temporary: Path | None = None
) -> None:
    """Write a file atomically, text as UTF-8; makes its folder.

    hint       see `disk_errors_explained`
    temporary  file to write before renaming, in the same folder; by default one with a random name
    raises     OSError, one line, if the disk is full or read-only; an older file is kept
    """
    path = Path(path)
    temporary = temporary or path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with disk_errors_explained(path, hint):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_figure(figure: Any, path: Path, *, hint: str = "", **options: Any) -> None:
    """Write a matplotlib figure atomically, in the format of the file's suffix.

    options  of its savefig
    raises   OSError as `atomic_write`; ValueError for a suffix that is not a format
    """
    content = io.BytesIO()
    figure.savefig(content, format=Path(path).suffix[1:], **options)
    atomic_write(path, content.getbuffer(), hint=hint)


def ensure_writable(folder: Path, hint: str) -> None:
    """Make a folder and try to write there, before hours are spent on its content; OSError as `atomic_write`."""
    folder = Path(folder)
    with disk_errors_explained(folder, hint):
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".{secrets.token_hex(4)}.tmp"
        trial.touch()
        trial.unlink()
