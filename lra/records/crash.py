"""What remains of a run that ended without saying how: a record that says so, and counts nowhere."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from lra.records.record import Data, Kind, Record, Selection
from lra.records.store import load

if TYPE_CHECKING:
    from lra.records.run_spec import RunSpec


def mark(path: Path, reason: str) -> bool:
    """Let the record of a run that has died say that it crashed. True if there was such a record.

    reason  what is known of the end, one line and where the log is
    """
    if not path.exists() or (record := load(path)).status not in ("running", "interrupted", "crashed"):
        return False
    dataclasses.replace(record, status="crashed", reason=reason).write(path)
    return True


def stand_in(cell: "RunSpec", *, kind: Kind, n_classes: int, precision: str, reason: str) -> Record:
    """The record of a run that died before its data was opened: what was asked for, where, and why it died.

    kind  of the data that was asked for
    """
    from lra.records import environment

    return Record(
        **{f.name: getattr(cell, f.name) for f in dataclasses.fields(cell)},
        status="crashed",
        reason=reason,
        git=environment.git(),
        versions=environment.versions(),
        hardware=environment.hardware(),
        precision=precision,
        data=Data(kind=kind, fingerprint=f"never opened ({kind})", counts={}, chance=1 / n_classes),
        parameters=0,
        selection=Selection(rule="none", on_test=False),
        steps_total=0,
        started=environment.now(),
        finished=environment.now(),
    )
