"""Tables as CSV: one line per cell, measured and published; unknown values are empty."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from lra.records.benchmark import Bench
from lra.records.published import Published, PublishedRow
from lra.records.record import Record
from lra.tables import comparison
from lra.tables.aggregate import Cell, aggregate
from lra.tables.agreement import agreements
from lra.tables.efficiency import comparable, efficiency
from lra.tables.other_tasks import other_csv_lines
from lra.tables.paper import PAPER_TABLES, printed_rows

STATISTICS = ("kind", "fingerprint", "runs", "tried", "learned", "unfinished", "mean", "std", "ci95_low", "ci95_high")
CSV_HEADER = (
    *("scale", "model", "title", "variant", "task"),
    *STATISTICS,
    *("chance", "untuned", "on_test"),
    *("published", "published_row", "published_source", "published_verified", "difference"),
)
PAPER_HEADER = (
    *("table", "row", "model", "task", "published", "verified"),
    *STATISTICS,
    *("chance", "untuned", "on_test", "difference"),
)
EFFICIENCY_HEADER = (
    *("table", "row", "column", "unit", "published", "verified", "measured"),
    *("device", "threads", "started", "commit", "command"),
)
OTHER_HEADER = (
    *("table", "task", "metric", "row", "published", "verified"),
    *("model", "variant", "kind", "fingerprint", "runs", "learned", "mean", "std", "trivial"),
)
AGREEMENT_HEADER = (
    *("scale", "group", "task", "models", "spearman", "ci95_low", "ci95_high"),
    *("learned_both", "learned_published_only", "learned_here_only"),
)
Line = Mapping[str, object]


def scale_csv(records: Sequence[Record], published: Published, scale: str) -> str:
    """The comparison of one scale: a line for each cell and each average, in percent."""
    results = aggregate(records, published, scale)
    lines: list[Line] = []
    for row in sorted(results.rows, key=lambda row: (row.model, row.variant, row.data_set)):
        paper = published.row_of(row.model)
        start = {"scale": scale, "model": row.model, "title": row.info.title, "variant": " ".join(row.variant)}
        for task, cell in sorted(row.cells.items()):
            lines.append({**start, "task": task, **measured_values(cell), **published_values(paper, task)})
        average = row.average()
        if average is not None and not row.data_set:
            score = paper.six_task_average if paper else None
            source = score_and_source(paper, score) if paper and score else {}
            lines.append({**start, "task": "average", "mean": four_decimals(average), **source})
    for model in results.models:
        if model.published and not model.rows:
            start = {"scale": scale, "model": model.info.stem, "title": model.info.title}
            lines += [{**start, "task": t, **published_values(model.published, t)} for t in model.published.scores]
    return as_csv(CSV_HEADER, lines)


def measured_values(cell: Cell) -> Line:
    group = cell.seeds
    low, high = group.interval or (None, None)
    return {
        "kind": group.data.kind,
        "fingerprint": group.data.fingerprint,
        "runs": len(group.runs),
        "tried": len(group.tried),
        "learned": len(group.learned),
        "unfinished": len(group.unfinished),
        "mean": four_decimals(group.mean),
        "std": four_decimals(group.std),
        "ci95_low": four_decimals(low),
        "ci95_high": four_decimals(high),
        "chance": four_decimals(group.data.trivial),
        "untuned": true_or_false(group.untuned),
        "on_test": true_or_false(group.chosen_on_test),
        "difference": "" if cell.difference is None else f"{cell.difference:+.2f}",
    }


def four_decimals(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.4f}"


def true_or_false(value: bool) -> str:
    return str(value).lower()


def published_values(paper: PublishedRow | None, task: str) -> Line:
    if paper is None or task not in paper.scores:
        return {}
    score = paper.scores[task]
    return score_and_source(paper, "FAIL" if score is None else score)


def score_and_source(paper: PublishedRow, score: float | str) -> Line:
    verified = true_or_false(paper.verified)
    source = {"published_row": paper.model, "published_source": paper.source, "published_verified": verified}
    return {"published": score, **source}


def paper_csv(name: str, records: Sequence[Record], published: Published) -> str:
    """One of PAPER_TABLES: a line for each printed score and average, with our results at scale paper."""
    lines: list[Line] = []
    for paper, model, row in printed_rows(name, records, published)[1]:
        start = {"table": name, "row": paper.model, "model": model, "verified": true_or_false(paper.verified)}
        for task, score in paper.scores.items():
            measured = measured_values(row.cells[task]) if row and task in row.cells else {}
            lines.append({**start, "task": task, **measured, "published": "FAIL" if score is None else score})
        mean = four_decimals(row.average(PAPER_TABLES[name].averaged) if row else None)
        printed = "" if paper.average is None else paper.average
        lines.append({**start, "task": "average", "mean": mean, "published": printed})
    return as_csv(PAPER_HEADER, lines)


def efficiency_csv(name: str, benches: Sequence[Bench], published: Published) -> str:
    """One of EFFICIENCY_TABLES: a line for each cell, published and measured here."""
    results = comparable(efficiency(name, benches, published))
    lines: list[Line] = []
    for row, column in dict.fromkeys([*results.printed, *results.measured]):
        printed, measured = results.printed.get((row, column)), results.measured.get((row, column))
        line: dict[str, object] = {"table": name, "row": row, "column": column}
        if measured:
            bench, hardware = measured.bench, measured.bench.hardware
            line |= {"unit": measured.unit, "measured": f"{measured.value:.6g}", "device": hardware.device}
            line |= {"threads": hardware.threads, "started": bench.started, "command": bench.command}
            line |= {"commit": comparison.commit_name(bench.git)}
        if printed:
            line |= {"unit": printed.unit, "published": printed.value, "verified": true_or_false(printed.verified)}
        lines.append(line)
    return as_csv(EFFICIENCY_HEADER, lines)


def other_csv(name: str, records: Sequence[Record], published: Published) -> str:
    """One of OTHER_TABLES: a line for each setting, metric and model."""
    return as_csv(OTHER_HEADER, other_csv_lines(name, records, published))


def agreement_csv(records: Sequence[Record], published: Published, scales: Sequence[str]) -> str:
    """How far each scale can be trusted: a line for each group of models and task."""
    lines: list[Line] = []
    for a in (a for scale in scales for a in agreements(records, published, scale) if a.pairs):
        low, high = a.interval or (None, None)
        numbers = {"spearman": a.spearman, "ci95_low": low, "ci95_high": high}
        lines.append({
            "scale": a.scale, "group": a.group, "task": a.task, "models": len(a.pairs),
            **{name: "" if value is None else f"{value:.4f}" for name, value in numbers.items()},
            "learned_both": a.count(here=True, there=True), "learned_published_only": a.count(here=False, there=True),
            "learned_here_only": a.count(here=True, there=False),
        })  # fmt: skip
    return as_csv(AGREEMENT_HEADER, lines)


def as_csv(header: Sequence[str], lines: Iterable[Line]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, header, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()
