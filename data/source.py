"""Where a task's data comes from: `choose` decides it, from the argument `source` and from what is on disk."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data import download, prepared
from data.prepared import DataError

if TYPE_CHECKING:
    from data.datamodule import TaskData

MIRROR = "LRA_MIRROR"
# the LRA archive unpacks to a folder lra_release with an inner lra_release and other, partly faulty copies next to it;
# users point at any level, and the innermost tree wins
LEVELS = ("lra_release/lra_release", "lra_release", ".")


@dataclass(frozen=True)
class Source:
    """One way to get a task's data; nothing is read before `write` is called.

    edition      first part of the prepared folder's name: "official", "generated", "toy", or a substitute's name
    kind         the record's word: "official", "subset" (real, but less or other than the official), "generated", "toy"
    description  the source for readers of results, without paths
    write        fills an empty folder with the arrays of data/prepared.py; returns manifest entries: `parts`, as
                 {name: [begin, end)}, and others
    notes        for readers of results
    identity     sizes of the source files, to tell two sources apart; None: unknown before the download
    files        source files that are small enough to be hashed, to notice a change of content
    tree         folder of many source files: their content is hashed once, and again if a name, size or time differs
    resumable    `write` can continue in the folder of an interrupted attempt
    """

    edition: str
    kind: str
    description: str
    write: Callable[[Path], dict[str, Any]]
    notes: tuple[str, ...] = ()
    identity: dict[str, int] | None = None
    files: tuple[Path, ...] = ()
    tree: Path | None = None
    resumable: bool = False


def choose(task: "TaskData") -> Source:
    """The source of a task's data; raises DataError if there is none.

    "toy", "generated" or another name the task knows; a folder; "official" or "auto": the first of
    $LRA_MIRROR, <root>/raw and the prepared data that fits the task's arguments, else (only "auto") generated data,
    else a download.
    """
    if (named := task.named_source(task.source)) is not None:
        return named
    if task.source not in ("auto", "official"):
        return _from_folder(task, Path(task.source))
    rejected = []
    for found in _on_disk(task):
        if task.source == "official" and found.edition != "official":
            continue
        if (reason := task.mismatch(found.edition)) is None:
            return found
        rejected.append(f"{found.description}: {reason}")
    if task.source == "auto" and (generated := task.generated()) is not None:
        return generated
    if rejected:
        raise DataError(f"{task.name}: {rejected[0]}")
    return task.downloaded()


def _from_folder(task: "TaskData", folder: Path) -> Source:
    if not folder.is_dir():
        raise DataError(f"source={folder}: no such folder", hint="a folder, or auto, official, generated, toy")
    if (found := task.find(folder)) is None:
        hint = "data/README.md lists the layouts that can be read"
        raise DataError(f"source={folder}: no data for {task.name} there", hint=hint)
    if reason := task.mismatch(found.edition):
        raise DataError(f"source={folder}: {reason}")
    return found


def _on_disk(task: "TaskData") -> list[Source]:
    """Real data on disk, in order of preference."""
    found = []
    if mirror := os.environ.get(MIRROR):
        if not Path(mirror).is_dir():
            raise DataError(f"{MIRROR}={mirror}: no such folder")
        found.append(task.find(Path(mirror)))
    if (raw := task.root / "raw").is_dir():
        found.append(task.find(raw))
    for edition in task.real_editions:
        if (path := task.folder(edition)).is_dir():
            manifest = prepared.read_manifest(path)
            found.append(Source(edition, manifest["kind"], manifest["source"], _deleted))
    return [source for source in found if source is not None]


def _deleted(folder: Path) -> dict[str, Any]:
    raise DataError(f"{folder}: the prepared data was deleted while in use", hint="start again")


def from_archive(task: "TaskData", find: Callable[[], Path]) -> Source:
    """The task's folder of its official archive, which `find` finds or downloads."""

    def write(work: Path) -> dict[str, Any]:
        path = find()
        download.check(path, task.archive)
        download.unpack(path, task.root / "raw", task.archive_folder, limit=task.archive.unpacked)
        if (found := task.find_files(task.root / "raw")) is None:
            raise DataError(f"{path}: its folder {task.archive_folder} does not have the files of {task.name}")
        return found.write(work)

    return Source("official", "official", task.archive_description(), write)


def find_folder(given: Path, names: tuple[str, ...], required: str) -> Path | None:
    """The folder below `given` that has the file or folder `required`.

    names     the folder's names at its usual place; `given` itself may also be it
    required  path inside the folder
    raises    DataError, with the place, if it is deeper than the usual levels: a guess could hide a mistake
    """
    for level in LEVELS:
        for name in names:
            if (given / level / name / required).exists():
                return given / level / name
    if (given / required).exists():
        return given
    for pattern in ("*", "*/*"):
        for found in sorted(given.glob(f"{pattern}/{required}")):
            folder = found.parents[len(Path(required).parts) - 1]
            raise DataError(f"{given}: wrong folder level, {required} is in {folder}", hint=f"data.source={folder}")
    return None


def sizes(folder: Path, names: tuple[str, ...]) -> dict[str, int]:
    """Sizes in bytes of required files; raises DataError for one that is missing or empty."""
    found = {}
    for name in names:
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: missing, though other files of the set are there", hint="copy or unpack it again")
        found[name] = path.stat().st_size
        if found[name] == 0:
            raise DataError(f"{path}: empty file", hint="copy or unpack it again")
    return found


def check_test_file(train: Path, test: Path) -> None:
    """DataError if the test file is the training file."""
    if prepared.same_content(train, test):
        raise DataError(f"{test}: has the content of {train.name}", hint="copy or unpack the test file again")
