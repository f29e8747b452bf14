"""The papers' own accuracy tables, row by row as printed, with our runs below."""

from collections.abc import Sequence
from dataclasses import dataclass

from lra.records.published import TASKS, Published, PublishedRow
from lra.records.record import Record
from lra.tables import comparison
from lra.tables.aggregate import Aggregate, Row, aggregate
from lra.tables.formats import Entry, Table

AVERAGE_RULE_5 = (
    "Avg: mean of the five tasks without Path-X over every seed tried, a failed seed counted as chance "
    "(the LRA paper's five); none if one task is missing"
)


@dataclass(frozen=True)
class PaperTable:
    """A printed table: title, the words that name it in a row's source, the tasks it averages and by which rule."""

    title: str
    source: str
    averaged: tuple[str, ...] = tuple(TASKS)
    rule: str = comparison.AVERAGE_RULE


PAPER_TABLES = {
    "s4_table4": PaperTable("S4 paper (arXiv 2111.00396v3), Table 4", "also Table 4"),
    "s4_table10": PaperTable("S4 paper (arXiv 2111.00396v3), Table 10", "Table 10"),
    "lra_table1": PaperTable(
        "LRA paper (arXiv 2011.04006), Table 1", "2011.04006, Table 1", tuple(TASKS)[:5], AVERAGE_RULE_5
    ),
}


def printed_rows(
    name: str, records: Sequence[Record], published: Published
) -> tuple[Aggregate, list[tuple[PublishedRow, str, Row | None]]]:
    """The aggregate of scale paper; and for each printed row its model ("" if none) and our row of it."""
    printed = [p for p in published.rows if PAPER_TABLES[name].source in p.source]
    # without the rows of other papers, so that differences are to this one
    results = aggregate(records, Published(rows=printed, models=published.models), "paper", variants=False)
    stems = {info.row: stem for stem, info in published.models.items()}
    measured = {row.model: row for row in results.rows}
    return results, [(p, stem := stems.get(p.model, ""), measured.get(stem)) for p in printed]


def paper_table(name: str, records: Sequence[Record], published: Published) -> Table:
    """A paper's table as printed, with our run at scale paper below each row."""
    table = PAPER_TABLES[name]
    results, rows = printed_rows(name, records, published)
    columns = results.columns[: len(TASKS)]
    body: list[tuple[Entry, ...]] = []
    for paper, _, row in rows:
        body.append(comparison.published_row(f"{paper.model} (paper)", paper, columns, row, paper.average))
        if row is not None:
            label = f"↳ here: {row.info.title}"
            body.append(comparison.measured_row(row, columns, label=label, average=table.averaged))
    notes = [
        table.rule,
        "Rows marked paper: as printed; rows marked here: measured at scale paper; Δ: measured - published, in points",
    ]
    if any("differs" in paper.convention for paper, _, _ in rows):
        notes.append("some printed averages do not follow from the printed scores")
    notes += comparison.measured_notes(results, columns) or [comparison.how_to_run("paper")]
    header = ("Model", *(c.title for c in columns), "Avg", "Runs")
    title = f"{table.title}: test accuracy in percent"
    return Table(name, title, header, tuple(body), (*notes, *comparison.sign_notes(body)))
