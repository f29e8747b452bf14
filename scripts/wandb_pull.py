"""Bring runs made elsewhere back as records: from an online W&B project, or from folders of offline runs.

    python scripts/wandb_pull.py me/lra                # every run of the project that has ended with a record
    python scripts/wandb_pull.py --offline wandb       # runs kept offline, say copied from another machine

A run carries its record as a file, byte for byte what was written where it ran. A record that is here already stays,
unless it is of an unfinished run, or --force is given. Exit status 1 if a run's record could not be read.
"""

import handover

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lra.io.atomic import atomic_write
from lra.io.strict_json import read_text
from lra.paths import ROOT
from lra.records.record import Record, parse
from lra.records.store import load
from lra.tables.aggregate import UNFINISHED

RECORD = "record.json"


def offline(folder: Path) -> Iterator[tuple[str, str | None]]:
    """(run, text of its record or None) of every run below a folder, kept offline or already uploaded."""
    for path in sorted(p for p in folder.rglob("*run-*") if p.is_dir() and (p / "files").is_dir()):
        record = path / "files" / RECORD
        # a full disk leaves an empty file
        yield str(path), read_text(record) if record.exists() and record.stat().st_size else None


def online(api: Any, project: str) -> Iterator[tuple[str, str | None]]:
    """(run, text of its record or None) of every run of a project."""
    for run in api.runs(project):
        name = f"{project}/{run.id}"
        files = list(run.files(names=[RECORD]))
        if not files:
            yield name, None
            continue
        with tempfile.TemporaryDirectory() as folder:
            files[0].download(root=folder, replace=True).close()
            yield name, read_text(Path(folder) / RECORD)


def better(new: Record, old: Record) -> bool:
    """Is one run of a cell to be kept rather than another? One that ended, then the one that ended later."""
    return rank(new) > rank(old)


def rank(r: Record) -> tuple[bool, str]:
    return r.status not in UNFINISHED, r.finished or r.started


def chosen(runs: Iterator[tuple[str, str | None]], results: Path, notes: list[str]) -> dict[Path, tuple[Record, str]]:
    """Where a record belongs -> the best run's record and its text; what cannot be read is noted."""
    found: dict[Path, tuple[Record, str]] = {}
    for name, text in runs:
        if text is None:
            notes.append(f"{name}: has no record (still running, or made by something else)")
            continue
        try:
            record = parse(text, where=name)
        except ValueError as error:
            notes.append(f"unreadable: {error}")
            continue
        path = record.path(results)
        if path not in found or better(record, found[path][0]):
            found[path] = record, text
    return found


def settle(path: Path, record: Record, text: str, force: bool) -> str:
    """Write a record where there is none or a lesser one; says what became of it: new, same, replaced or kept."""
    if not path.exists():
        outcome = "new"
    elif read_text(path) == text:
        return "same"
    elif force or is_lesser(path, record):
        outcome = "replaced"
    else:
        return "kept"
    atomic_write(path, text)
    return outcome


def is_lesser(path: Path, record: Record) -> bool:
    try:
        old = load(path)
    except ValueError:
        return False
    return old.status in UNFINISHED and better(record, old)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", nargs="?", metavar="ENTITY/PROJECT")
    parser.add_argument("--offline", type=Path, metavar="FOLDER", help="folder of offline runs instead of a project")
    parser.add_argument("--results", type=Path, default=ROOT / "results/runs", help="where records are written")
    parser.add_argument("--force", action="store_true", help="replace records that are here and differ")
    args = parser.parse_args()
    if (args.project is None) == (args.offline is None):
        parser.error("give either ENTITY/PROJECT or --offline FOLDER")
    return args


def runs_of(args: argparse.Namespace) -> Iterator[tuple[str, str | None]]:
    """raises ValueError, one line, for a folder that is not there or a project without a key."""
    if args.offline is not None:
        if not args.offline.is_dir():
            raise ValueError(f"there is no folder {args.offline}")
        return offline(args.offline)
    import wandb

    from lra import tracking

    if not tracking.has_key():
        raise ValueError("no W&B key on this machine; run .venv/bin/wandb login, or give --offline FOLDER")
    return online(wandb.Api(timeout=tracking.PATIENCE), args.project)


def main() -> int:
    args = arguments()
    notes: list[str] = []
    try:
        found = chosen(runs_of(args), args.results, notes)
        outcomes = {path: settle(path, *kept, args.force) for path, kept in sorted(found.items())}
    except Exception as error:
        # the library has no common class for a lost network, an unknown project and a refused key
        said = " ".join(str(error).split())[:300]
        known = args.project is None or isinstance(error, ValueError)
        print(f"wandb_pull.py: {said if known else f'{args.project}: W&B did not answer ({said})'}", file=sys.stderr)
        return 2
    for note in notes:
        print(note)
    for path, outcome in outcomes.items():
        if outcome != "same":
            print(f"{outcome}: {path}" + ("; it differs, --force replaces it" if outcome == "kept" else ""))
    counts = ", ".join(
        f"{sum(o == word for o in outcomes.values())} {word}" for word in ("new", "replaced", "same", "kept")
    )
    print(f"{len(outcomes)} record{'s' * (len(outcomes) != 1)}: {counts}")
    return int(any(note.startswith("unreadable") for note in notes))


if __name__ == "__main__":
    handover.run(main)
