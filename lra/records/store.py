"""Record files: read, write and list them."""

from collections.abc import Iterator
from pathlib import Path

from lra.io.strict_json import read_text
from lra.records.record import Record, parse


def load(path: Path) -> Record:
    """Read one record. ValueError, one line naming file, field and value, for anything that is not exactly a record."""
    try:
        return parse(read_text(path), where=str(path))
    except ValueError as error:
        raise ValueError(f"{error}; restore the file, or move it away and the cell can be trained anew") from None


def load_all(root: Path) -> list[Record]:
    """Every record below `root`, in the order of their paths. ValueError for the first file that is not in order."""
    records = []
    for _, outcome in scan(root):
        if isinstance(outcome, ValueError):
            raise outcome
        records.append(outcome)
    return records


def scan(root: Path) -> Iterator[tuple[Path, Record | ValueError]]:
    """(path, record or what is wrong with it) of every file below `root` whose name ends in .json, sorted."""
    for path in sorted(Path(root).rglob("*.json")):
        try:
            record = load(path)
            if (home := record.path(Path(root))) != path:
                raise ValueError(f"{path}: holds the record of {home.relative_to(root)}; move or delete it")
        except ValueError as error:
            yield path, error
        else:
            yield path, record
