"""The papers' tables of speed and memory, with our measurements from results/bench/*.json beneath.

A benchmark file that belongs to such a table is a `Bench`; a file without `table` is another benchmark:
{"table": "S4 Table 3", "command", "started", "git", "hardware", "versions",
 "rows": [{"row": "S4", "column": "speed, length 1024", "value": 1.6, "unit": "x"}, ...]}
and, if something was found out about it later, "notes", lines that are printed beneath the table.
"""

import re
from collections.abc import Sequence

from lra.records.benchmark import Bench
from lra.records.published import Published, Quantity
from lra.tables import comparison
from lra.tables.formats import Entry, Table

LENGTH = re.compile(r"length (\d+)$")
EFFICIENCY_TABLES = {
    "lra_table2": ("LRA Table 2", "LRA paper, Table 2: training on byte-level Text (paper: batch 32, 4x4 TPU v3)"),
    "s4_table2": ("S4 Table 2", "S4 paper, Table 2: one layer, training step and memory against LSSL (paper: A100)"),
    "s4_table3": ("S4 Table 3", "S4 paper, Table 3: speed and memory relative to the Transformer (paper: A100)"),
}


def efficiency_table(name: str, benches: Sequence[Bench], published: Published) -> Table:
    """One of EFFICIENCY_TABLES: published rows, and beneath each what was measured here (the newest, by its date)."""
    key, title = EFFICIENCY_TABLES[name]
    claims = [q for q in published.quantities if q.table == key]
    mine = sorted((b for b in benches if b.table == key), key=lambda b: b.started)
    measured = {
        (f.row, f.column): Quantity(key, f.row, f.column, f.value, f.unit, here=True) for b in mine for f in b.rows
    }
    printed = {(q.row, q.column): q for q in claims}
    columns = in_order(list(dict.fromkeys(column for _, column in [*printed, *measured])))
    units: dict[str, str] = {}
    for q in [*claims, *measured.values()]:
        units.setdefault(q.column, q.unit)
    body: list[list[Entry]] = []
    for row in dict.fromkeys(row for row, _ in [*printed, *measured]):
        if any((row, c) in printed for c in columns):
            entries = [Entry(show(printed.get((row, c)), units[c]), quiet=True) for c in columns]
            body.append([Entry(f"{row} (paper)", quiet=True), *entries])
        if any((row, c) in measured for c in columns):
            here = [Entry(show(measured.get((row, c)), units[c])) for c in columns]
            body.append([Entry(f"↳ here: {row}"), *here])
    notes = [f"here: {comparison.machine(b.hardware)}, {b.started[:10]}, {b.command}" for b in mine]
    notes += ["Commit: " + comparison.tally(comparison.commit_name(b.git) for b in mine)] if mine else []
    notes += [note for b in mine for note in b.notes]
    notes = notes or ["Nothing measured here yet: make bench"]
    header = ("Model", *(c if units[c] in c else f"{c} [{units[c]}]" for c in columns))
    return Table(name, title, header, tuple(map(tuple, body)), tuple(comparison.with_signs(body, notes)))


def in_order(columns: list[str]) -> list[str]:
    """By the length each column ends with, if the paper's own go by length; else as they are, the paper's first."""
    lengths = [int(found[1]) if (found := LENGTH.search(column)) else None for column in columns]
    if None in lengths:
        return columns
    return [column for _, column in sorted(zip(lengths, columns, strict=True), key=lambda pair: pair[0] or 0)]


def show(quantity: Quantity | None, unit: str) -> str:
    """The number, as printed or to three digits, with its unit where that is not the column's."""
    if quantity is None:
        return comparison.HOLE
    size = abs(quantity.value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    text = f"{quantity.value:.{digits}f}" if quantity.here else f"{quantity.value:g}"
    return (
        text
        + (f" {quantity.unit}" if quantity.unit != unit else "")
        + ("" if quantity.verified else comparison.UNVERIFIED)
    )
