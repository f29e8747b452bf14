"""Results for a program to read: a line of CSV for each cell, measured and published."""

import csv
import io
from collections.abc import Sequence

from lra.records.benchmark import Bench
from lra.records.published import TASKS, Published, PublishedRow
from lra.records.record import Record
from lra.tables import aggregate, comparison
from lra.tables.aggregate import SeedGroup
from lra.tables.efficiency import EFFICIENCY_TABLES
from lra.tables.paper import PAPER_TABLES

CSV_HEADER = (
    *("scale", "model", "title", "variant", "task"),
    *("kind", "fingerprint", "runs", "tried", "learned", "unfinished"),
    *("mean", "std", "ci95_low", "ci95_high", "chance", "untuned", "on_test"),
    *("published", "published_row", "published_source", "published_verified", "difference"),
)

PAPER_HEADER = (
    *("table", "row", "model", "task", "published", "verified"),
    *("kind", "fingerprint", "runs", "tried", "learned", "unfinished", "mean", "std", "ci95_low", "ci95_high"),
    *("chance", "untuned", "on_test", "difference"),
)
EFFICIENCY_HEADER = (
    *("table", "row", "column", "unit", "published", "verified", "measured"),
    *("device", "threads", "started", "commit", "command"),
)


def tidy_csv(records: Sequence[Record], published: Published, scale: str) -> str:
    """The same results for a program: a line for each cell and each average, in percent; what is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    rows = aggregate.rows_of([r for r in records if r.scale == scale])
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


def _cell_values(cell: SeedGroup, paper: PublishedRow | None, task: str) -> list[object]:
    def show(share: float | None) -> str:
        return "" if share is None else f"{100 * share:.4f}"

    low, high = cell.interval or (None, None)
    counts = [len(cell.runs), len(cell.tried), len(cell.learned), len(cell.unfinished)]
    marks = [any(r.recipe is None for r in cell.runs), any(r.selection.on_test for r in cell.runs)]
    claim = _claim_values(paper, task)
    gap = comparison.difference(cell, paper.scores.get(task)) if paper else ""
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


def paper_csv(name: str, records: Sequence[Record], published: Published) -> str:
    """One of PAPER_TABLES: a line for each printed score and average, with what was measured here at scale paper."""
    _, source, average, _ = PAPER_TABLES[name]
    rows = [r for r in aggregate.rows_of([r for r in records if r.scale == "paper"]) if not r.variant and not r.part]
    mine = {row.model: row for row in rows}
    owner = {info.row: stem for stem, info in published.models.items()}
    lines: list[Sequence[object]] = []
    for paper in (p for p in published.rows if source in p.source):
        stem = owner.get(paper.model, "")
        row = mine.get(stem)
        start = [name, paper.model, stem]
        for task, score in paper.scores.items():
            claim = ["FAIL" if score is None else score, str(paper.verified).lower()]
            cell = row.cells.get(task) if row else None
            # the same figures as in the CSV of a scale, without its claim
            values = [*(v := _cell_values(cell, paper, task))[:-5], v[-1]] if cell else [""] * (len(PAPER_HEADER) - 6)
            lines.append([*start, task, *claim, *values])
        mean = row.average(average) if row else None
        blank = [""] * (len(PAPER_HEADER) - 6)
        if mean is not None:
            blank[PAPER_HEADER.index("mean") - 6] = f"{100 * mean:.4f}"
        said = "" if paper.average is None else paper.average
        lines.append([*start, "average", said, str(paper.verified).lower(), *blank])
    return _written(PAPER_HEADER, lines)


def efficiency_csv(name: str, benches: Sequence[Bench], published: Published) -> str:
    """One of EFFICIENCY_TABLES: a line for each cell, published and measured here (the newest, by its date)."""
    key = EFFICIENCY_TABLES[name][0]
    printed = {(q.row, q.column): q for q in published.quantities if q.table == key}
    newest = sorted((b for b in benches if b.table == key), key=lambda b: b.started)
    measured = {(f.row, f.column): (b, f) for b in newest for f in b.rows}
    lines: list[Sequence[object]] = []
    for row, column in dict.fromkeys([*printed, *measured]):
        claim, here = printed.get((row, column)), measured.get((row, column))
        unit = claim.unit if claim else here[1].unit if here else ""
        line: list[object] = [
            name,
            row,
            column,
            unit,
            *((claim.value, str(claim.verified).lower()) if claim else ("", "")),
        ]
        if here:
            b, f = here
            line += [f"{f.value:.6g}", b.hardware.device, b.hardware.threads, b.started]
            line += [comparison.commit_name(b.git), b.command]
        lines.append([*line, *[""] * (len(EFFICIENCY_HEADER) - len(line))])
    return _written(EFFICIENCY_HEADER, lines)


def _written(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return out.getvalue()
