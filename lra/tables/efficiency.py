"""The papers' tables of speed and memory, with our measurements from results/bench/*.json below.

A benchmark file that belongs to such a table is a `Bench`; a file without `table` is another benchmark:
{"table": "S4 Table 3", "command", "started", "git", "hardware", "versions",
 "rows": [{"row": "S4", "column": "speed, length 1024", "value": 1.6, "unit": "x"}, ...]}
and optionally "notes", lines added later that are printed below the table.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lra.records.benchmark import Bench
from lra.records.published import Published, Quantity
from lra.tables import comparison
from lra.tables.formats import Entry, Table

# how benchmark files and published tables name a column: "memory, length 1024", "steps/s, 2K"
COLUMN = re.compile(r"(?P<quantity>.+), (?P<axis>[a-z]*) ?(?P<position>\d+)(?P<thousands>K?)")
EFFICIENCY_TABLES = {
    "lra_table2": (
        "LRA Table 2",
        "LRA paper, Table 2: training on byte-level Text, times the Transformer's (paper: batch 32, 4x4 TPU v3)",
    ),
    "s4_table2": ("S4 Table 2", "S4 paper, Table 2: one layer, training step and memory against LSSL (paper: A100)"),
    "s4_generation": (
        "S4 generation",
        "S4 paper, Tables 7 and 8: speed of generation, times that of the Transformer without a cache of keys",
    ),
    "s4_table3": ("S4 Table 3", "S4 paper, Table 3: speed and memory relative to the Transformer (paper: A100)"),
}
RATIO = "x"
# table in absolute units -> the row that each source's values are divided by, so that two machines compare
BASES = {"lra_table2": "Transformer"}
RATIOS = {"steps/s": "speed", "GB": "memory"}


@dataclass(frozen=True)
class BenchColumn:
    """A column: its quantity at one point of an axis ("length", "dim"); position None if it is not on an axis."""

    name: str
    unit: str
    quantity: str
    axis: str
    position: float | None

    @classmethod
    def of(cls, name: str, unit: str) -> "BenchColumn":
        found = COLUMN.fullmatch(name)
        if found is None:
            return cls(name, unit, name, "", None)
        position = float(found["position"]) * (1024 if found["thousands"] else 1)
        return cls(name, unit, found["quantity"], found["axis"], position)


@dataclass(frozen=True)
class Measured:
    value: float
    unit: str
    bench: Bench


@dataclass(frozen=True)
class Efficiency:
    """One table of speed or memory: published and measured values by (row, column), the newest of several."""

    name: str
    title: str
    columns: tuple[BenchColumn, ...]
    printed: dict[tuple[str, str], Quantity]
    measured: dict[tuple[str, str], Measured]
    benches: tuple[Bench, ...]


def efficiency(name: str, benches: Sequence[Bench], published: Published) -> Efficiency:
    """Aggregate one of EFFICIENCY_TABLES."""
    key, title = EFFICIENCY_TABLES[name]
    used = sorted((b for b in benches if b.table == key), key=lambda b: b.started)
    printed = {(q.row, q.column): q for q in published.quantities if q.table == key}
    measured = {(f.row, f.column): Measured(f.value, f.unit, b) for b in used for f in b.rows}
    units: dict[str, str] = {}
    for values in (printed, measured):
        for (_, column), value in values.items():
            units.setdefault(column, value.unit)
    columns = [BenchColumn.of(column, unit) for column, unit in units.items()]
    # measured lengths go between the paper's; other columns stay in order, the paper's first
    if all(c.axis == "length" for c in columns):
        columns.sort(key=lambda c: c.position or 0)
    return Efficiency(name, title, tuple(columns), printed, measured, tuple(used))


def comparable(results: Efficiency) -> Efficiency:
    """The table in numbers that may be printed next to those of another machine: ratios between two rows of one source.

    A table with a base row is divided by it, column by column; what has no base is left out. In other tables, published
    values that are no ratios are left out.
    """
    base = BASES.get(results.name)
    if base is None:
        printed = {cell: quantity for cell, quantity in results.printed.items() if quantity.unit == RATIO}
        return replace(results, printed=printed)
    names = {c.name: c.name.replace(c.quantity, RATIOS[c.quantity]) for c in results.columns}
    printed = {
        (row, names[column]): replace(
            quantity,
            column=names[column],
            value=round(quantity.value / reference.value, 2),
            unit=RATIO,
            verified=quantity.verified and reference.verified,
        )
        for (row, column), quantity in results.printed.items()
        if (reference := results.printed.get((base, column))) is not None
    }
    measured = {
        (row, names[column]): replace(ours, value=ours.value / own.value, unit=RATIO)
        for (row, column), ours in results.measured.items()
        if (own := results.measured.get((base, column))) is not None
    }
    kept = {column for _, column in (*printed, *measured)}
    columns = tuple(BenchColumn.of(name, RATIO) for name in names.values() if name in kept)
    return replace(results, columns=columns, printed=printed, measured=measured)


def efficiency_table(name: str, benches: Sequence[Bench], published: Published) -> Table:
    """One of EFFICIENCY_TABLES: published rows, each with ours below."""
    results = comparable(efficiency(name, benches, published))
    columns, printed, measured = results.columns, results.printed, results.measured
    body: list[tuple[Entry, ...]] = []
    for row in dict.fromkeys(row for row, _ in [*printed, *measured]):
        if any((row, c.name) in printed for c in columns):
            entries = [entry(printed.get((row, c.name)), c.unit, published=True) for c in columns]
            body.append((Entry(f"{row} (paper)", published=True), *entries))
        if any((row, c.name) in measured for c in columns):
            body.append((Entry(f"↳ here: {row}"), *(entry(measured.get((row, c.name)), c.unit) for c in columns)))
    used = results.benches
    notes = [f"here: {comparison.machine(b.hardware)}, {b.started[:10]}, {b.command}" for b in used]
    notes += ["Commit: " + comparison.tally(comparison.commit_name(b.git) for b in used)] if used else []
    notes += [note for b in used for note in b.notes]
    if used and name in BASES:
        notes.append(f"In {' and '.join(RATIOS)}: results/bench/{name}.json and the page")
    notes = notes or ["Nothing measured here yet: make bench"]
    header = ("Model", *(c.name if c.unit == c.quantity else f"{c.name} [{c.unit}]" for c in columns))
    return Table(name, results.title, header, tuple(body), (*notes, *comparison.sign_notes(body)))


def entry(value: Quantity | Measured | None, unit: str, *, published: bool = False) -> Entry:
    """A published number as printed, a measured one to three digits, with its unit if that is not the column's."""
    if value is None:
        return comparison.hole(published=published)
    unit = "" if value.unit == unit else f" {value.unit}"
    if isinstance(value, Measured):
        size = abs(value.value)
        digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
        return Entry(f"{value.value:.{digits}f}{unit}", published=published)
    doubt = "" if value.verified else comparison.UNVERIFIED
    return Entry(f"{value.value:g}{unit}{doubt}", published=published, signs=(doubt,) if doubt else ())
