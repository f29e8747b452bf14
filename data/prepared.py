"""The prepared form of a task: a folder of plain arrays and one manifest, whole or not there.

    <root>/<task>/<edition>-<digest of the parameters>/
        x.npy         uint8: (n, L) of fixed length, or (total,) of all examples end to end
        offsets.npy   int64 (n + 1,): where each example begins in x, if examples differ in length
        y.npy         uint8 (n,): labels
        pairs.npy     int32 (n, 2): the two documents of each example, if paired
        manifest.json edition, source, parameters, counts, and size and SHA-256 of every array

A folder is written under another name, flushed, and renamed: a reader never sees half of one. A lock file,
released by the system when its process dies, keeps two writers apart; the second waits and finds the work done.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from lra.errors import UserError

FORMAT = 1
MANIFEST = "manifest.json"


class DataError(UserError):
    """What a user can mend: the message is one line that names the thing, its value and the cure."""

    def __init__(self, message: str):
        # what a library says of a damaged file, quoted in the message, may have several lines
        super().__init__(" ".join(message.splitlines()))


def digest(parameters: dict) -> str:
    """Ten hexadecimal digits that stand for a set of parameters in the name of a folder."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:10]


def sha256(path: Path, advance: Callable[[int], object] | None = None) -> str:
    """SHA-256 of a file, read in pieces of 4 MiB; `advance` is told the bytes of each."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            state.update(piece)
            if advance is not None:
                advance(len(piece))
    return state.hexdigest()


@contextlib.contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses below `path` into one line that says what to do."""
    try:
        yield
    except OSError as error:
        # of an array that is cut off numpy says how much was written, and not why
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "requested and" in str(error):
            raise DataError(
                f"{path}: disk full while preparing data ({free_mib(path)} MiB free); "
                "make room or choose another folder with data.root=/some/dir"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DataError(
                f"{error.filename or path}: cannot be written ({error.strerror}); "
                "choose another folder with data.root=/some/dir"
            ) from error
        raise


def free_mib(path: Path) -> int:
    """MiB free on the disk that holds `path`, or would hold it."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free >> 20


def need_space(path: Path, n_bytes: int) -> None:
    """Raise DataError before anything is written if `n_bytes` will not fit."""
    if (n_bytes >> 20) > free_mib(path):
        raise DataError(
            f"{path}: {n_bytes >> 20} MiB needed, {free_mib(path)} MiB free; "
            "make room or choose another folder with data.root=/some/dir"
        )


@contextlib.contextmanager
def locked(path: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Hold the one writer's lock on `path`; wait, and say so, while another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is preparing {path.name}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_json(path: Path, content: object) -> None:
    """Write JSON beside `path`, flush it to disk, rename: the old file or the new, never half."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with beside.open("w") as file:
        json.dump(content, file, indent=1, sort_keys=True)
        flush(file)
    beside.replace(path)


def flush(file: IO) -> None:
    file.flush()
    os.fsync(file.fileno())


def build(
    folder: Path,
    header: dict[str, Any],
    write: Callable[[Path], dict[str, Any]],
    *,
    resumable: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Make a prepared folder unless it is there, and return its manifest.

    header     what the manifest says before the work begins: task, edition, kind, source, parameters
    write      fills an empty folder with the arrays; returns what else the manifest says, `parts` at least
    resumable  keep the folder of an interrupted attempt and hand it to `write` again
    raises     DataError, with nothing half-made left in use
    """
    with plain_errors(folder), locked(folder, say):
        if (folder / MANIFEST).is_file():
            return read_manifest(folder)
        work = folder.with_name(f".{folder.name}.partial")
        if work.exists() and not resumable:
            shutil.rmtree(work)
        work.mkdir(exist_ok=True)
        try:
            found = write(work)
        except BaseException:
            if not resumable:
                shutil.rmtree(work, ignore_errors=True)
            raise
        manifest = header | found | {"format": FORMAT, "files": _describe(work)}
        write_json(work / MANIFEST, manifest)
        if folder.exists():
            raise DataError(f"{folder}: holds no {MANIFEST} and was not written here; move it away")
        work.replace(folder)
        return read_manifest(folder)


def _describe(folder: Path) -> dict[str, dict]:
    files = {}
    for path in sorted(folder.glob("*.npy")):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    return files


def content_hash(manifest: dict) -> str:
    """One SHA-256 for all arrays of a prepared folder."""
    lines = (f"{name} {file['sha256']}\n" for name, file in sorted(manifest["files"].items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder, its files present and of the recorded size; raises DataError."""
    path = folder / MANIFEST
    cure = f"delete {folder} and prepare it again"
    try:
        manifest = json.loads(path.read_bytes())
        wanted = {name: int(file["bytes"]) for name, file in manifest["files"].items()}
        version = manifest["format"]
        texts = [manifest[key] for key in ("task", "edition", "kind", "source")] + manifest["notes"]
        ends = [end for pair in manifest["parts"].values() for end in pair]
        if not all(isinstance(text, str) for text in texts) or not isinstance(manifest["parameters"], dict):
            raise ValueError("what should be text is not")
        if any(len(pair) != 2 for pair in manifest["parts"].values()) or any(type(end) is not int for end in ends):
            raise ValueError("parts are not pairs of whole numbers")
        if not {"x.npy", "y.npy"} <= wanted.keys():
            raise ValueError("x.npy or y.npy is not listed")
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {cure}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({error}); {cure}") from None
    if version != FORMAT:
        raise DataError(f"{path}: format {version!r}, this version reads {FORMAT}; {cure}")
    for name, size in wanted.items():
        if "/" in name or not name.endswith(".npy"):
            raise DataError(f"{path}: names a file {name!r}; {cure}")
        if not (folder / name).is_file():
            raise DataError(f"{folder / name}: missing; {cure}")
        if (found := (folder / name).stat().st_size) != size:
            raise DataError(f"{folder / name}: {found} bytes, the manifest says {size}; {cure}")
    return manifest


def read_array(folder: Path, name: str) -> np.ndarray | None:
    """A memory-mapped array of a prepared folder (private: writes stay in memory), None if it has none."""
    path = folder / f"{name}.npy"
    if not path.exists():
        return None
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception as error:  # a damaged header fails in many ways, none of which runs code
        raise DataError(f"{path}: not an array ({error}); delete {folder} and prepare it again") from None


def check_hashes(folder: Path, advance: Callable[[int], object] | None = None) -> None:
    """Recompute the SHA-256 of every array; raises DataError that names the first file that differs."""
    for name, file in sorted(read_manifest(folder)["files"].items()):
        if sha256(folder / name, advance) != file["sha256"]:
            raise DataError(f"{folder / name}: content differs from its SHA-256; delete {folder} and prepare it again")
