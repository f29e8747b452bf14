"""Record files: load, list, and mark runs that died."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from lra.io.strict_json import read_text
from lra.records import environment
from lra.records.code import code_fingerprint
from lra.records.record import Data, Kind, Record, Selection, parse
from lra.records.run_spec import RunSpec


def load(path: Path) -> Record:
    """Read one record. ValueError, one line naming file, field and value, for anything that is not exactly a record."""
    try:
        return parse(read_text(path), where=str(path))
    except ValueError as error:
        raise ValueError(f"{error}; hint: restore the file, or move it away to repeat the run") from None


def load_all(root: Path) -> list[Record]:
    """Every record below `root`, sorted by path. ValueError for the first file that is not valid."""
    records = []
    for _, outcome in scan(root):
        if isinstance(outcome, ValueError):
            raise outcome
        records.append(outcome)
    return records


def scan(root: Path) -> Iterator[tuple[Path, Record | ValueError]]:
    """(path, record or error) of every .json file below `root`, sorted by path."""
    for path in sorted(Path(root).rglob("*.json")):
        try:
            record = load(path)
            if (expected := record.path(Path(root))) != path:
                raise ValueError(f"{path}: has the record of {expected.relative_to(root)}; hint: move or delete it")
        except ValueError as error:
            yield path, error
        else:
            yield path, record


def mark_crashed(path: Path, reason: str) -> bool:
    """Set the status of a dead run's record to crashed. False if it has no record, or one that ended.

    reason  one line: what is known of the end, and where the log is
    """
    if not path.exists() or (record := load(path)).status not in ("running", "interrupted", "crashed"):
        return False
    record.model_copy(update={"status": "crashed", "reason": reason}).write(path)
    return True


def crashed_record(cell: RunSpec, *, kind: Kind, trivial: float, objective: str, precision: str, reason: str) -> Record:
    """The record of a run that died before it opened its data.

    kind  of the data that was requested
    """
    return Record(
        **{f.name: getattr(cell, f.name) for f in dataclasses.fields(cell)},
        status="crashed",
        objective=objective,
        reason=reason,
        git=environment.git(),
        code=code_fingerprint(cell.config),
        versions=environment.versions(),
        hardware=environment.hardware(),
        precision=precision,
        data=Data(kind=kind, fingerprint=f"never opened ({kind})", counts={}, trivial=trivial),
        parameters=0,
        selection=Selection(rule="none", on_test=False),
        steps_total=0,
        started=environment.now(),
        finished=environment.now(),
    )
