"""Prepared data: a folder of plain arrays and a manifest for each task, edition and set of parameters.

    <root>/<task>/<edition>-<digest of the parameters>/
        x.npy         uint8: (n, L) of fixed length, or (total,) for documents of different length, concatenated
        offsets.npy   int64 (documents + 1,): document i is x[offsets[i]:offsets[i + 1]]; only if lengths differ
        y.npy         uint8 (n,): labels; a series has none
        pairs.npy     int32 (n, 2): the two documents of each example, if paired
        manifest.json edition, source, parameters, counts, and size and SHA-256 of every array

A folder is written under a temporary name, flushed and renamed, so it is complete or absent. A second writer waits for
the first one's file lock, then finds the work done; the system releases the lock of a process that dies.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lra.console import say
from lra.errors import UserError
from lra.io.atomic import atomic_write, disk_errors_explained, free_mib

FORMAT = 1
MANIFEST = "manifest.json"
OTHER_FOLDER = "data.root=/some/dir"


class DataError(UserError):
    """Data or arguments the user can correct: one line, even if it quotes a library's message of several."""

    def __init__(self, problem: str, *, hint: str | None = None):
        super().__init__(" ".join(problem.splitlines()), hint=hint)


def digest(parameters: dict[str, Any]) -> str:
    """Ten hexadecimal digits that identify a set of parameters in the name of a folder."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:10]


def file_hash(path: Path, kind: str = "sha256", advance: Callable[[int], object] = lambda n: None) -> str:
    """Hash of a file, read in blocks of 4 MiB; `advance` gets the size of each block."""
    state = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            state.update(block)
            advance(len(block))
    return state.hexdigest()


_hashes: dict[tuple[Path, int, int, bool], str] = {}
SAMPLE = 1 << 20


def stamp(path: Path) -> dict[str, Any]:
    """What tells whether a source file has changed: size, time, and hashes of its ends and of all of it."""
    state = path.stat()
    return {"bytes": state.st_size, "mtime_ns": state.st_mtime_ns, "ends": _hash(path, True), "sha256": _hash(path)}


def is_unchanged(path: Path, before: dict[str, Any]) -> bool:
    """Whether a source file has the content of its stamp; all of it is read only if its time has changed."""
    state = path.stat()
    if state.st_size != before["bytes"] or _hash(path, True) != before["ends"]:
        return False
    return state.st_mtime_ns == before["mtime_ns"] or _hash(path) == before["sha256"]


def tree_state(folder: Path) -> str:
    """Digest of the names, sizes and times of all files below a folder; the content is not read.

    The time is that of the last change of content or attributes, which programs cannot set.
    """
    state = hashlib.sha256()
    for path, entry in _files_below(folder):
        about = entry.stat()
        state.update(f"{path}\0{about.st_size}\0{about.st_ctime_ns}\n".encode())
    return state.hexdigest()


def tree_hash(folder: Path) -> str:
    """Digest of the names and contents of all files below a folder."""
    state = hashlib.sha256()
    for path, entry in _files_below(folder):
        state.update(f"{path}\0{hashlib.sha256(Path(entry.path).read_bytes()).hexdigest()}\n".encode())
    return state.hexdigest()


def _files_below(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(path below the folder, entry) of every file, in the order of names."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            yield from _files_below(Path(entry.path), f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry


def same_content(a: Path, b: Path) -> bool:
    """Whether two files are equal."""
    return a.stat().st_size == b.stat().st_size and _hash(a, True) == _hash(b, True) and _hash(a) == _hash(b)


def _hash(path: Path, ends: bool = False) -> str:
    """SHA-256 of a file, or of its first and last MiB; cached until it changes."""
    state = path.stat()
    key = path, state.st_mtime_ns, state.st_size, ends
    if key not in _hashes:
        if ends:
            with path.open("rb") as file:
                content = file.read(SAMPLE)
                file.seek(max(0, state.st_size - SAMPLE))
                _hashes[key] = hashlib.sha256(content + file.read()).hexdigest()
        else:
            _hashes[key] = file_hash(path)
    return _hashes[key]


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn disk errors while data is read and `path` is written into one line with a hint."""
    with disk_errors_explained(path, OTHER_FOLDER):
        try:
            yield
        except OSError as error:
            # numpy reports an incomplete write without its cause
            if "requested and" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            source = Path(str(error.filename or path))
            if not source.is_relative_to(path.parent) and not path.is_relative_to(source):
                raise DataError(f"{source}: cannot be read ({error.strerror})") from error
            raise


def need_space(path: Path, n_bytes: int) -> None:
    """Raise DataError if `n_bytes` do not fit, before anything is written."""
    if (n_bytes >> 20) > free_mib(path):
        problem = f"{path}: {n_bytes >> 20} MiB needed, {free_mib(path)} MiB free"
        raise DataError(problem, hint=f"make room, or choose another folder with {OTHER_FOLDER}")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the writer's lock on `path`; print a line if another process has it, and wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is preparing {path.name}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_json(path: Path, content: object) -> None:
    atomic_write(path, json.dumps(content, indent=1, sort_keys=True), hint=OTHER_FOLDER)


def save_arrays(folder: Path, **arrays: np.ndarray) -> None:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def build(
    folder: Path, header: dict[str, Any], write: Callable[[Path], dict[str, Any]], *, resumable: bool = False
) -> dict[str, Any]:
    """Make a prepared folder if it is missing; returns its manifest.

    header     manifest entries known beforehand: task, edition, kind, source, parameters
    write      fills an empty folder with the arrays; returns the other manifest entries, at least `parts`
    resumable  keep the folder of an interrupted attempt for the next one
    raises     DataError or OSError, one line, and leaves no incomplete folder in use
    """
    with disk_errors(folder), locked(folder):
        if (folder / MANIFEST).is_file():
            return read_manifest(folder)
        work = folder.with_name(f".{folder.name}.partial")
        if work.exists() and not resumable:
            shutil.rmtree(work)
        work.mkdir(exist_ok=True)
        try:
            written = write(work)
        except BaseException:
            if not resumable:
                shutil.rmtree(work, ignore_errors=True)
            raise
        write_json(work / MANIFEST, header | written | {"format": FORMAT, "files": _describe(work)})
        if folder.exists():
            raise DataError(f"{folder}: has no {MANIFEST}, so it is not prepared data", hint="move it away")
        work.replace(folder)
        return read_manifest(folder)


def _describe(folder: Path) -> dict[str, dict[str, Any]]:
    files = {}
    for path in sorted(folder.glob("*.npy")):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": file_hash(path)}
    return files


def content_hash(manifest: dict[str, Any]) -> str:
    """One SHA-256 for all arrays of a prepared folder."""
    lines = (f"{name} {file['sha256']}\n" for name, file in sorted(manifest["files"].items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Manifest of a prepared folder; raises DataError if it is damaged or a file is missing or of another size."""
    path = folder / MANIFEST
    hint = f"delete {folder} and prepare it again"
    try:
        manifest = json.loads(path.read_bytes())
        sizes = {name: int(file["bytes"]) for name, file in manifest["files"].items()}
        texts = [manifest[key] for key in ("task", "edition", "kind", "source")] + manifest["notes"]
        texts += [file["sha256"] for file in manifest["files"].values()]
        ends = [end for pair in manifest["parts"].values() for end in pair]
        if not all(isinstance(text, str) for text in texts) or not isinstance(manifest["parameters"], dict):
            raise ValueError("an entry is of the wrong type")
        if any(len(pair) != 2 for pair in manifest["parts"].values()) or any(type(end) is not int for end in ends):
            raise ValueError("parts are not pairs of whole numbers")
        unlabelled = manifest["parts"].keys() == {"rows"} or "ends.npy" in sizes  # a series, a text
        if not {"x.npy", *([] if unlabelled else ["y.npy"])} <= sizes.keys():
            raise ValueError("x.npy or y.npy is not listed")
        if any("/" in name or not name.endswith(".npy") for name in sizes):
            raise ValueError("it lists a file that is not an array of the folder")
        version = manifest["format"]
    except FileNotFoundError:
        raise DataError(f"{path}: missing", hint=hint) from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: damaged ({error})", hint=hint) from None
    if version != FORMAT:
        raise DataError(f"{path}: format {version!r}, this version reads {FORMAT}", hint=hint)
    for name, size in sizes.items():
        if not (folder / name).is_file():
            raise DataError(f"{folder / name}: missing", hint=hint)
        if (found := (folder / name).stat().st_size) != size:
            raise DataError(f"{folder / name}: {found} bytes, the manifest says {size}", hint=hint)
    return manifest


def read_array(path: Path) -> np.ndarray:
    """Memory-mapped array of a prepared folder; writes to it stay in memory."""
    try:
        return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    except Exception as error:  # a damaged header fails in many ways, none of which runs code
        raise DataError(f"{path}: not an array ({error})", hint=f"delete {path.parent} and prepare it again") from None


def read_table(path: Path, *columns: str) -> list[list[Any]]:
    """Columns of a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, columns=list(columns)).to_pydict()
        return [table[column] for column in columns]
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        problem = f"{path}: not a readable Parquet table ({str(error).splitlines()[0]})"
        raise DataError(problem, hint="copy it again") from None


def check_hashes(folder: Path, advance: Callable[[int], object] = lambda n: None) -> None:
    """Recompute the SHA-256 of every array; raises DataError for the first file that differs."""
    for name, file in sorted(read_manifest(folder)["files"].items()):
        if file_hash(folder / name, advance=advance) != file["sha256"]:
            hint = f"delete {folder} and prepare it again"
            raise DataError(f"{folder / name}: content differs from its SHA-256", hint=hint)
