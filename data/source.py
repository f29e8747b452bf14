"""Where a task's data comes from: given, prepared before, generated, or fetched."""

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


@dataclass(frozen=True)
class Origin:
    """One way to come by a task's data; nothing happens before `write` is called.

    edition    short name, first part of the prepared folder's: "official", "generated", "toy", or a substitute's
    kind       what a record calls it: "official", "subset" (real, but less or other than the official),
               "generated", "toy"
    source     the same for people, without paths
    write      fills an empty folder with the arrays of data/prepared.py; returns `parts` {name: [begin, end)} and more
    notes      what a reader of results must know
    identity   sizes of the files it was found in, to tell two sources apart; None: not known before it is fetched
    resumable  `write` can go on in the folder an interrupted attempt left
    """

    edition: str
    kind: str
    source: str
    write: Callable[[Path], dict[str, Any]]
    notes: tuple[str, ...] = ()
    identity: dict[str, int] | None = None
    resumable: bool = False


def choose(task: "TaskData") -> Origin:
    """Decide, from the task's `source` and what lies on disk; raises DataError if there is no way."""
    if task.source == "toy":
        return task.toy()
    if task.source == "generated":
        if (made := task.generated()) is None:
            raise DataError(f"{task.name} cannot be generated: source=auto, official or a folder")
        return made
    if task.source not in ("auto", "official"):
        return _given(task, Path(task.source))
    reasons = []
    for found in _at_hand(task):
        if task.source == "official" and found.edition != "official":
            continue
        if (reason := task.why_not(found.edition)) is None:
            return found
        reasons.append(f"{found.source}: {reason}")
    if task.source == "auto" and (made := task.generated()) is not None:
        return made
    if reasons:
        raise DataError(f"{task.name}: {reasons[0]}")
    return task.fetched()


def _given(task: "TaskData", folder: Path) -> Origin:
    named = f"source={folder}"
    if not folder.is_dir():
        raise DataError(f"{named}: no such folder; give one that holds {task.name}, or auto, official, generated, toy")
    if (found := task.find(folder)) is None:
        raise DataError(f"{named}: no data for {task.name} there; data/README.md lists the layouts that are read")
    if reason := task.why_not(found.edition):
        raise DataError(f"{named}: {reason}")
    return found


def _at_hand(task: "TaskData") -> list[Origin]:
    """Real data given or prepared, best first."""
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
            found.append(Origin(edition, manifest["kind"], manifest["source"], _gone))
    return [origin for origin in found if origin is not None]


def _gone(folder: Path) -> dict[str, Any]:
    raise DataError(f"{folder}: prepared data has gone while it was being used; start again")


def from_lra(task: "TaskData", path: Callable[[], Path]) -> Origin:
    """The task's folder of the archive of the Long Range Arena, which `path` finds or fetches."""

    def write(work: Path) -> dict[str, Any]:
        place = path()
        download.check(place, download.LRA)
        download.unpack(place, task.root / "raw", task.lra_folder, limit=download.LRA.unpacked)
        if (found := task.unpacked(task.root / "raw")) is None:
            raise DataError(f"{place}: {task.lra_folder} in it does not hold the files of {task.name}")
        return found.write(work)

    return Origin("official", "official", f"LRA {task.lra_folder}", write)
