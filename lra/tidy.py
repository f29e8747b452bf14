"""Results for a program to read: a line of CSV for each cell, measured and published."""

import csv
import io
from collections.abc import Sequence

from lra import cells, tables
from lra.cells import Cell
from lra.published import TASKS, Published, PublishedRow
from lra.results import Record

CSV_HEADER = (
    *("scale", "model", "title", "variant", "task"),
    *("kind", "fingerprint", "runs", "tried", "learned", "unfinished"),
    *("mean", "std", "ci95_low", "ci95_high", "chance", "untuned", "on_test"),
    *("published", "published_row", "published_source", "published_verified", "difference"),
)


def tidy_csv(records: Sequence[Record], published: Published, scale: str) -> str:
    """The same results for a program: a line for each cell and each average, in percent; what is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    rows = cells.rows_of([r for r in records if r.scale == scale])
    for row in rows:
        info = published.model(row.model, row.title)
        paper = published.row_of(row.model)
        name = [scale, row.model, info.title, " ".join(row.variant)]
        for task, cell in row.cells.items():
            writer.writerow([*name, task, *_cell_values(cell, paper, task)])
        average = row.average(tuple(TASKS))
        if average is not None and not row.part:
            score = paper.six_task_average if paper else None
            claim = [score, paper.model, paper.source, str(paper.verified).lower()] if paper and score else [""] * 4
            blank = [""] * (CSV_HEADER.index("published") - CSV_HEADER.index("std"))
            writer.writerow([*name, "average", *[""] * 6, f"{100 * average:.4f}", *blank, *claim, ""])
    seen = {row.model for row in rows}
    for stem, info in published.models.items():
        paper = published.row_of(stem)
        for task in paper.scores if paper is not None and stem not in seen else ():
            blank = [""] * (CSV_HEADER.index("published") - 5)
            writer.writerow([scale, stem, info.title, "", task, *blank, *_claim_values(paper, task), ""])
    return out.getvalue()


def _cell_values(cell: Cell, paper: PublishedRow | None, task: str) -> list[object]:
    def show(share: float | None) -> str:
        return "" if share is None else f"{100 * share:.4f}"

    low, high = cell.interval or (None, None)
    counts = [len(cell.runs), len(cell.tried), len(cell.learned), len(cell.unfinished)]
    marks = [any(r.recipe is None for r in cell.runs), any(r.selection.on_test for r in cell.runs)]
    claim = _claim_values(paper, task)
    gap = tables.difference(cell, paper.scores.get(task)) if paper else ""
    return [
        *(*cell.data, *counts, show(cell.mean), show(cell.deviation), show(low), show(high), show(cell.chance)),
        *(str(mark).lower() for mark in marks),
        *claim,
        gap.strip(" (Δ)"),
    ]


def _claim_values(paper: PublishedRow | None, task: str) -> list[object]:
    if paper is None or task not in paper.scores:
        return ["", "", "", ""]
    score = paper.scores[task]
    return ["FAIL" if score is None else score, paper.model, paper.source, str(paper.verified).lower()]
