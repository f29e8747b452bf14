"""Benchmark files: measurements of speed and memory with the conditions they were made under."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lra.io.redact import portable
from lra.io.strict_json import check, decode, read_text, write_atomically
from lra.records.record import Git, Hardware


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a benchmark: the row and column where it stands in the paper's table, value and unit."""

    row: str
    column: str
    value: float
    unit: str


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One benchmark file: which table it fills, how it was run, on what, and its numbers."""

    table: str
    command: str
    started: str
    git: Git
    hardware: Hardware
    versions: dict[str, str]
    rows: list[Figure]
    # what was found out about it later
    notes: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the file whole or not at all."""
        write_atomically(path, json.dumps(portable(asdict(self)), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def load_bench(folder: Path) -> list[Bench]:
    """Benchmark files that belong to a paper's table, by name; none if there is no such folder.

    raises ValueError, one line naming file and field, for a file that names a table and is not of this form
    """
    found = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            content = decode(read_text(path))
            if isinstance(content, dict) and "table" in content:
                found.append(check({"notes": [], **content}, Bench, ""))
        except ValueError as error:
            message = str(error)
            raise ValueError(message if message.startswith(str(path)) else f"{path}: {message}") from None
    return found
