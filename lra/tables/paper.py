"""The papers' own accuracy tables, row by row as printed, with our runs beneath."""

from collections.abc import Sequence

from lra.records.published import TASKS, ModelInfo, Published
from lra.records.record import Record
from lra.tables import aggregate, comparison
from lra.tables.formats import Entry, Table

AVERAGE_RULE_5 = (
    "Avg: mean of the five tasks without Path-X over every seed tried, a failed seed counted as chance "
    "(the LRA paper's five); none if one task is missing"
)
PAPER_TABLES = {
    "s4_table4": ("S4 paper (arXiv 2111.00396v3), Table 4", "also Table 4", tuple(TASKS), comparison.AVERAGE_RULE),
    "s4_table10": ("S4 paper (arXiv 2111.00396v3), Table 10", "Table 10", tuple(TASKS), comparison.AVERAGE_RULE),
    "lra_table1": ("LRA paper (arXiv 2011.04006), Table 1", "2011.04006, Table 1", tuple(TASKS)[:5], AVERAGE_RULE_5),
}


def paper_table(name: str, records: Sequence[Record], published: Published) -> Table:
    """A table of a paper as printed, row by row, our run at the paper's scale beneath each."""
    title, source, average, rule = PAPER_TABLES[name]
    columns = dict(TASKS)
    rows = [r for r in aggregate.rows_of([r for r in records if r.scale == "paper"]) if not r.variant and not r.part]
    owner = {info.row: stem for stem, info in published.models.items()}
    printed = [p for p in published.rows if source in p.source]
    body: list[list[Entry]] = []
    for paper in printed:
        stem = owner.get(paper.model)
        index = next((i for i, r in enumerate(rows) if r.model == stem), None)
        measured = rows[index] if index is not None else None
        body.append(comparison.published_line(f"{paper.model} (paper)", paper, columns, measured, paper.average))
        if stem is not None and index is not None:
            here = ModelInfo(stem, "↳ here: " + published.model(stem).title, "")
            body.append(comparison.measured_entries(rows, index, here, columns, average))
    notes = [
        rule,
        "Rows marked paper: as printed; rows marked here: measured at scale paper; Δ: measured - published, in points",
    ]
    if any("differs" in p.convention for p in printed):
        notes.append("some printed averages do not follow from the printed scores")
    notes += comparison.measured_notes(rows, columns) if rows else [comparison.how_to_run("paper")]
    notes = comparison.with_signs(body, notes)
    header = ("Model", *columns.values(), "Avg", "Runs")
    return Table(name, f"{title}: test accuracy in percent", header, tuple(map(tuple, body)), tuple(notes))
