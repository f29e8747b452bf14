"""Measurements of speed and memory as charts: each quantity over length or width, published numbers beside ours."""

import re
from collections import defaultdict
from collections.abc import Sequence
from html import escape

from lra.records.benchmark import Bench
from lra.records.published import Published
from lra.report.svg import COLOURS, Line, scaling_chart
from lra.tables import comparison
from lra.tables.efficiency import EFFICIENCY_TABLES

COLUMN = re.compile(r"(?P<quantity>.+), (?P<axis>[a-z]*) ?(?P<at>\d+)(?P<thousands>K?)")


def bench_section(benches: Sequence[Bench], published: Published) -> str:
    """A card for each of the papers' tables of speed and memory that was measured here; nothing where none was."""
    cards = [card for key, title in EFFICIENCY_TABLES.values() if (card := table_card(key, title, benches, published))]
    return f'<section id="speed"><h2>Speed and memory</h2>{"".join(cards)}</section>' if cards else ""


def table_card(key: str, title: str, benches: Sequence[Bench], published: Published) -> str:
    mine = sorted((b for b in benches if b.table == key), key=lambda b: b.started)
    if not mine:
        return ""
    # the newest of a cell counts
    here = {(f.row, f.column): (f.value, f.unit) for b in mine for f in b.rows}
    paper = {(q.row, q.column): (q.value, q.unit) for q in published.quantities if q.table == key}
    names = list(dict.fromkeys(row for row, _ in here))
    colours = {name: f"c{i}" if i < COLOURS else "other" for i, name in enumerate(ranked(names, paper))}
    figures = "".join(chart_of(quantity, unit, axis, here, paper, colours) for quantity, unit, axis in quantities(here))
    devices = "; ".join(dict.fromkeys(comparison.machine(b.hardware) for b in mine))
    said = f"Measured here on {devices}; dashed: as published, on the paper's machine."
    inside = f'<h3>{escape(title)}</h3><p class="lead">{escape(said)}</p><div class="charts">{figures}</div>'
    return f'<div class="card">{inside}</div>' if figures else ""


def ranked(names: Sequence[str], paper: dict[tuple[str, str], tuple[float, str]]) -> list[str]:
    """S4 and the Transformer first, then the others the paper has, then the rest."""
    printed = {row for row, _ in paper}
    first = {"S4": 0, "Transformer": 1}
    return sorted(names, key=lambda name: (first.get(name, 2), name not in printed, name))


def place(column: str) -> tuple[str, str, float] | None:
    """("memory", "length", 1024.0) of "memory, length 1024"; None of a column that is no point on an axis."""
    found = COLUMN.fullmatch(column)
    if found is None:
        return None
    at = float(found["at"]) * (1024 if found["thousands"] else 1)
    return found["quantity"], found["axis"] or "length", at


def quantities(here: dict[tuple[str, str], tuple[float, str]]) -> list[tuple[str, str, str]]:
    """(quantity, unit, axis) with at least two points; of several units the commonest."""
    points: dict[tuple[str, str, str], set[float]] = defaultdict(set)
    for (_, column), (_, unit) in here.items():
        if (at := place(column)) is not None:
            points[at[0], unit, at[1]].add(at[2])
    best: dict[tuple[str, str], tuple[str, str, str]] = {}
    for key in points:
        best.setdefault((key[0], key[2]), key)
    return [key for key in best.values() if len(points[key]) > 1]


def chart_of(
    quantity: str,
    unit: str,
    axis: str,
    here: dict[tuple[str, str], tuple[float, str]],
    paper: dict[tuple[str, str], tuple[float, str]],
    colours: dict[str, str],
) -> str:
    lines = []
    for name, colour in colours.items():
        for source, dashed in ((here, False), (paper, True)):
            points = sorted(
                (at[2], value)
                for (row, column), (value, u) in source.items()
                if row == name and u == unit and (at := place(column)) and at[0] == quantity and at[1] == axis
            )
            if len(points) > 1 and all(value > 0 for _, value in points):
                title = f"{name}{', published' if dashed else ''}"
                label = name if not dashed and colour != "other" else None
                lines.append(Line(points, colour, title, label, dashed=dashed))
    if not lines:
        return ""
    chart = scaling_chart(lines, axis, f"{quantity} over {axis}")
    shown = "relative to the Transformer" if unit == "x" else unit
    return f"<figure><figcaption>{escape(quantity)} <span>{escape(shown)}</span></figcaption>{chart}</figure>"
