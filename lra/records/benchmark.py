"""Benchmark files: measured speed and memory, and the conditions of the measurement."""

import json
from pathlib import Path

from pydantic import Field

from lra.io.atomic import atomic_write
from lra.io.redact import portable
from lra.io.strict_json import StrictModel, check, decode, read_text
from lra.records.record import Git, Hardware


class Figure(StrictModel):
    """One number of a benchmark: its row and column in the paper's table, value and unit."""

    row: str
    column: str
    value: float
    unit: str


class Bench(StrictModel):
    """One benchmark file: the paper's table it belongs to, how and on what machine it was run, and its numbers."""

    table: str
    command: str
    started: str
    git: Git
    hardware: Hardware
    versions: dict[str, str]
    rows: list[Figure]
    # findings of a later date
    notes: list[str] = Field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the file atomically."""
        content = portable(self.model_dump())
        atomic_write(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def load_bench(folder: Path) -> list[Bench]:
    """Benchmark files that belong to a paper's table, by name; none if there is no such folder.

    raises ValueError, one line naming file and field, for a file that names a table and is not valid
    """
    found = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            content = decode(read_text(path))
            if isinstance(content, dict) and "table" in content:
                found.append(check(content, Bench, ""))
        except ValueError as error:
            raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    return found
