"""Fetch records of runs made elsewhere: from an online W&B project, or from folders of offline runs.

    python scripts/wandb_pull.py me/lra                # every run of the project that has a record
    python scripts/wandb_pull.py --offline wandb       # offline runs, for example copied from a cluster

A W&B run holds its record as a file, byte for byte. A local record is replaced only if its run did not finish, or with
--force. Exit status 1 if a record could not be read, 2 if W&B could not.
"""

import handover

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lra import tracking
from lra.config.overrides import die
from lra.errors import UserError
from lra.io.atomic import atomic_write
from lra.io.strict_json import read_text
from lra.paths import RESULTS
from lra.records.record import Record, parse
from lra.records.store import load
from lra.tables.aggregate import UNFINISHED

Runs = Iterator[tuple[str, str | None]]  # name of a run, text of its record or None


def offline(folder: Path) -> Runs:
    """Every run below a folder, whether uploaded or not."""
    for path in sorted(p for p in folder.rglob("*run-*") if (p / "files").is_dir()):
        record = path / "files" / tracking.RECORD
        # a full disk leaves an empty file
        yield str(path), read_text(record) if record.exists() and record.stat().st_size else None


def online(api: Any, project: str) -> Runs:
    """Every run of a project."""
    for run in api.runs(project):
        text = None
        with tempfile.TemporaryDirectory() as folder:
            for file in run.files(names=[tracking.RECORD]):
                file.download(root=folder, replace=True).close()
                text = read_text(Path(folder) / tracking.RECORD)
        yield f"{project}/{run.id}", text


def rank(record: Record) -> tuple[bool, str]:
    """Order of the runs of one cell: finished runs win, then later ones."""
    return record.status not in UNFINISHED, record.finished or record.started


def latest(runs: Runs, results: Path, notes: list[str]) -> dict[Path, tuple[Record, str]]:
    """The best record, with its text, for each path under `results`; notes collects runs without a readable one."""
    found: dict[Path, tuple[Record, str]] = {}
    for name, text in runs:
        if text is None:
            notes.append(f"{name}: has no record (still running, or not made by scripts/train.py)")
            continue
        try:
            record = parse(text, where=name)
        except ValueError as error:
            notes.append(f"unreadable: {error}")
            continue
        path = record.path(results)
        if path not in found or rank(record) > rank(found[path][0]):
            found[path] = record, text
    return found


def write(path: Path, record: Record, text: str, force: bool) -> str:
    """Write the record unless a better one is there; returns new, same, replaced or kept."""
    outcome = "new"
    if path.exists():
        if read_text(path) == text:
            return "same"
        if not (force or replaces(record, path)):
            return "kept"
        outcome = "replaced"
    atomic_write(path, text)
    return outcome


def replaces(record: Record, path: Path) -> bool:
    try:
        old = load(path)
    except ValueError:
        return False
    return old.status in UNFINISHED and rank(record) > rank(old)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", nargs="?", metavar="ENTITY/PROJECT", help="fetch every run that has a record")
    parser.add_argument("--offline", type=Path, metavar="FOLDER", help="folder of offline runs instead of a project")
    parser.add_argument("--results", type=Path, default=RESULTS / "runs", help="where records are written")
    parser.add_argument("--force", action="store_true", help="replace local records that differ")
    args = parser.parse_args()
    if (args.project is None) == (args.offline is None):
        parser.error("give either ENTITY/PROJECT or --offline FOLDER")
    return args


def runs_of(args: argparse.Namespace) -> Runs:
    """UserError for a folder that does not exist, or a project without a key."""
    if args.offline is not None:
        if not args.offline.is_dir():
            raise UserError(f"there is no folder {args.offline}")
        return offline(args.offline)
    import wandb

    if not tracking.has_key():
        raise UserError("no W&B key on this machine", hint=".venv/bin/wandb login, or --offline FOLDER")
    return online(wandb.Api(timeout=tracking.CONNECT_SECONDS), args.project)


def main() -> int:
    args = arguments()
    notes: list[str] = []
    try:
        found = latest(runs_of(args), args.results, notes)
        outcomes = {path: write(path, *kept, args.force) for path, kept in sorted(found.items())}
    except Exception as error:  # wandb has no common class for a lost network, an unknown project and a refused key
        own = args.project is None or isinstance(error, ValueError)
        die(error if own else f"{args.project}: W&B did not answer ({tracking.one_line(error)})", "wandb_pull.py")
    for note in notes:
        print(note)
    for path, outcome in outcomes.items():
        if outcome != "same":
            print(f"{outcome}: {path}" + ("; it differs, --force replaces it" if outcome == "kept" else ""))
    counts = Counter(outcomes.values())
    summary = ", ".join(f"{counts[word]} {word}" for word in ("new", "replaced", "same", "kept"))
    print(f"{len(outcomes)} record{'s' * (len(outcomes) != 1)}: {summary}")
    return int(any(note.startswith("unreadable") for note in notes))


if __name__ == "__main__":
    handover.run(main)
