"""Files put in place whole or not at all, and one clear line where the disk refuses."""

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
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)  # a file where a folder is to be, or the other way round


@contextlib.contextmanager
def refusals_explained(path: Path, cure: str = "") -> Iterator[None]:
    """Turn what the disk refuses while `path` is written into an OSError of one line that names it and the way out.

    cure  how another folder is chosen: "runs=/some/dir"
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL + FORBIDDEN + IN_THE_WAY:
            raise
        reason = os.strerror(error.errno)
        advice = "write elsewhere" + (f" with {cure}" if cure else "")
        if error.errno in FULL:
            reason, advice = f"{reason}, {free_mib(path)} MiB free", f"make room, or {advice}"
        # no longer of that errno: it has been explained
        raise OSError(f"{path}: cannot be written ({reason}): {advice}; what was there is untouched") from None


def free_mib(path: Path) -> int:
    """MiB free on the disk that holds `path`, or would hold it."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free >> 20


def write_whole(path: Path, content: bytes | memoryview, *, cure: str = "", beside: Path | None = None) -> None:
    """Put a file in place whole or not at all: written beside, flushed to disk, renamed; its parent is made.

    cure    see `refusals_explained`
    beside  the other name; without, one that no second writer has
    raises  OSError, in one line and with the older file untouched, where the folder is read-only or the disk full
    """
    path = Path(path)
    beside = beside or path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with refusals_explained(path, cure):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise


def write_figure(figure: Any, path: Path, *, cure: str = "", **options: Any) -> None:
    """A figure of matplotlib in the format of the file's suffix, put in place as `write_whole` does.

    options  of its savefig
    raises   OSError as there; ValueError for a suffix that is no format
    """
    content = io.BytesIO()
    figure.savefig(content, format=Path(path).suffix[1:], **options)
    write_whole(path, content.getbuffer(), cure=cure)


def ensure_writable(folder: Path, cure: str) -> None:
    """Make a folder and try it, before hours are spent on what is to be written there; OSError as above."""
    folder = Path(folder)
    with refusals_explained(folder, cure):
        folder.mkdir(parents=True, exist_ok=True)
        tried = folder / f".{secrets.token_hex(4)}.tmp"
        tried.touch()
        tried.unlink()
