"""Published numbers from results/published/*.csv, with source and whether they were verified."""

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path

TASKS = {
    "listops": "ListOps",
    "text": "Text",
    "retrieval": "Retrieval",
    "image": "Image",
    "pathfinder": "Pathfinder",
    "pathx": "Path-X",
}
# chance as the papers count it, in percent
CHANCE = {"listops": 10.0, "text": 50.0, "retrieval": 50.0, "image": 10.0, "pathfinder": 50.0, "pathx": 50.0}


NUMBER = re.compile(r"-?[0-9.]+")


@dataclass(frozen=True)
class PublishedRow:
    """One line of a paper's table. scores: percent by task, None if the paper says FAIL."""

    model: str
    scores: dict[str, float | None]
    average: float | None
    convention: str
    source: str
    note: str
    verified: bool

    @property
    def six_task_average(self) -> float | None:
        """Mean of the six scores with failures counted as chance; as printed if the paper uses this rule."""
        if self.convention in ("all six", "FAIL=50"):
            return self.average
        if len(self.scores) < len(CHANCE):
            return None
        scores = [CHANCE[task] if score is None else score for task, score in self.scores.items()]
        return sum(scores) / len(scores)


@dataclass(frozen=True)
class ModelInfo:
    """Display name and family of a model, and the name of its published row, if there is one."""

    stem: str
    title: str
    family: str
    row: str | None = None


@dataclass(frozen=True)
class Quantity:
    """One number of an efficiency table, published or measured here: its place and value."""

    table: str
    row: str
    column: str
    value: float
    unit: str
    verified: bool = True
    here: bool = False


@dataclass(frozen=True)
class Published:
    rows: list[PublishedRow] = field(default_factory=list)
    models: dict[str, ModelInfo] = field(default_factory=dict)
    quantities: list[Quantity] = field(default_factory=list)

    def model(self, stem: str, title: str | None = None) -> ModelInfo:
        """Information on a model; an unlisted model is named `title`, or by its stem."""
        return self.models.get(stem) or ModelInfo(stem, title or stem, "other")

    def row_of(self, stem: str) -> PublishedRow | None:
        """The published row of a model: the first in lra.csv with the name from models.csv."""
        name = self.model(stem).row
        return next((r for r in self.rows if r.model == name), None)


def load_published(folder: Path) -> Published:
    """Read lra.csv, models.csv, lra_speed.csv and s4_tables.csv. ValueError naming file, line and value."""
    folder = Path(folder)
    models = {}
    for _, line in _lines(folder / "models.csv"):
        models[line["stem"]] = ModelInfo(line["stem"], line["title"], line["family"], line["row"] or None)
    return Published(
        rows=[_row(where, line) for where, line in _lines(folder / "lra.csv")],
        models=models,
        quantities=[*_speed(folder / "lra_speed.csv"), *_s4_tables(folder / "s4_tables.csv")],
    )


def _lines(path: Path) -> list[tuple[str, dict[str, str]]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return [(f"{path}:{reader.line_num}", line) for line in reader]


def _number(where: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{where}: {text!r} is not a number") from None


def _verified(line: dict[str, str]) -> bool:
    return line["verified"].startswith("yes")


def _row(where: str, line: dict[str, str]) -> PublishedRow:
    scores = {t: None if line[t] == "FAIL" else _number(where, line[t]) for t in TASKS if line[t]}
    return PublishedRow(
        model=line["model"],
        scores=scores,
        average=_number(where, line["avg"]) if line["avg"] else None,
        convention=line["avg_convention"],
        source=line["source"],
        note=line["note"],
        verified=_verified(line),
    )


def _speed(path: Path) -> list[Quantity]:
    found = []
    for where, line in _lines(path):
        if "LRA paper" not in line["source"] or not line["length"]:
            continue
        for column, unit in (("steps_per_second", "steps/s"), ("peak_memory_gb_per_device", "GB")):
            if line[column]:
                value = _number(where, line[column])
                name = f"{unit}, {line['length']}"
                found.append(Quantity("LRA Table 2", line["model"], name, value, unit, _verified(line)))
    return found


def _s4_tables(path: Path) -> list[Quantity]:
    names = {"Table 2 (S4 vs LSSL)": "S4 Table 2", "Table 3 (relative to Transformer)": "S4 Table 3"}
    found = []
    for where, line in _lines(path):
        if line["column"] == "generation speed ratio":
            table, _, data = line["table"].partition(" (")
            column = f"{table}, {data.split()[0].rstrip(')')}"
            value = _number(where, line["value"])
            found.append(Quantity("S4 generation", line["row"], column, value, line["unit"], _verified(line)))
        known = line["table"] in names or NUMBER.fullmatch(line["value"])
        if known:  # some cells of other tables are words
            value, table = _number(where, line["value"]), names.get(line["table"], line["table"])
            found.append(Quantity(table, line["row"], line["column"], value, line["unit"], _verified(line)))
    return found
