"""Where in a folder a user names do the official files lie?

The archive of the Long Range Arena unpacks to an outer `lra_release` that holds, beside an inner `lra_release`,
other and partly faulty copies; only the inner one is used. People point at any level, or rename folders as the
S4 repository asks, so every level is tried and the innermost tree that has the file wins.
"""

from pathlib import Path

from data.prepared import DataError

LEVELS = ("lra_release/lra_release", "lra_release", ".")


def find_folder(given: Path, names: tuple[str, ...], required: str) -> Path | None:
    """The folder below `given` that holds the file or folder `required`.

    names     how the folder is called where it has its place in the tree; `given` itself may also be it
    required  path inside it that must exist
    raises    DataError if it lies deeper than any level tried, with the place, for guessing would hide a mistake
    """
    for level in LEVELS:
        for name in names:
            if (given / level / name / required).exists():
                return given / level / name
    if (given / required).exists():
        return given
    for pattern in ("*", "*/*"):
        for found in sorted(given.glob(f"{pattern}/{required}")):
            if found.exists():
                place = found.parents[len(Path(required).parts) - 1]
                raise DataError(f"{given}: wrong folder level, {required} lies in {place}; point source there")
    return None


def sizes(folder: Path, names: tuple[str, ...]) -> dict[str, int]:
    """Sizes in bytes of files that must be there; raises DataError for one that is missing or empty."""
    found = {}
    for name in names:
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: missing, though other files of the set are there; copy it, or unpack again")
        found[name] = path.stat().st_size
        if found[name] == 0:
            raise DataError(f"{path}: no bytes; get the file again")
    return found
