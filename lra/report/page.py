"""Records as one self-contained HTML page: no network, light and dark, desk and phone; a pure function of records.

This module computes what the templates show; they format it.
"""

import hashlib
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lra.records.benchmark import Bench
from lra.records.published import Published
from lra.records.record import Example, Record
from lra.report import figures
from lra.report.figures import Series, agreement_figure
from lra.report.svg import COLOURS
from lra.tables import comparison
from lra.tables.aggregate import Aggregate, Column, Row, SeedGroup, aggregate, learned
from lra.tables.agreement import AVERAGE, agreements
from lra.tables.comparison import HOLE, percent
from lra.tables.efficiency import EFFICIENCY_TABLES, efficiency
from lra.tables.formats import Entry

KINDS = {
    "official": "Official data",
    "generated": "Data generated here by the benchmark's rules",
    "subset": "Part of the official data",
    "toy": "Toy data in place of the task's own",
}
ANSWERS_SHOWN = 7  # below an example, of the strongest models; the others are counted
KERNEL_MODELS = 2  # of a task, the strongest that have kernels


def page(records: Sequence[Record], published: Published, scale: str, benches: Sequence[Bench] = ()) -> str:
    """The page for the records of one scale, and the measurements of speed and memory."""
    results = aggregate(records, published, scale)
    series = coloured(results.main_rows or results.rows)
    columns = results.measured_columns if results.rows else ()
    shown = [column for column in columns if any(column.task in s.groups for s in series)]
    tasks = [task_section(series, column) for column in shown]
    content: dict[str, Any] = {
        "results": results,
        "columns": columns,
        "variants": comparison.variants_table(results),
        "comparison": comparison.table_of(results, every_task=False, list_failures=False),
        "how_to_run": comparison.how_to_run(scale),
        "facts": facts(results.runs),
        "table_rows": table_rows(results),
        "overview": overview(series, shown),
        "trust": trust(series, records, published, scale),
        "tasks": tasks,
        "kernels": [card for column in shown for card in kernel_cards(series, column)],
        "examples": [card for column in shown if (card := examples_card(series, column))],
        "speed": [card for name in EFFICIENCY_TABLES if (card := speed_card(name, benches, published))],
        "failures": list(failures(results)),
        "environments": environments(results.runs),
    }
    sections = [(section, section.title(), content[section]) for section in ("kernels", "examples", "speed")]
    content["navigation"] = [
        ("table", "Table"),
        *((task["id"], task["title"]) for task in tasks),
        *((section, title) for section, title, cards in sections if cards),
        *((section, section.title()) for section in ("failures", "runs", "environment")),
    ]
    return environment().get_template("page.html.j2").render(content)


def environment() -> Environment:
    templates = Environment(loader=PackageLoader("lra.report"), autoescape=True, undefined=StrictUndefined)
    templates.trim_blocks = templates.lstrip_blocks = True
    templates.filters |= {"percent": percent_or_hole, "flat": flat, "commit": comparison.commit_name}
    templates.filters |= {"as_text": comparison.seeds_entry, "anchor": run_anchor, "unique_texts": dict.fromkeys}
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    templates.globals |= {"style": Markup(style), "HOLE": HOLE}
    return templates


def facts(runs: Sequence[Record]) -> dict[str, Any]:
    """When the runs were made, and how many there are."""
    if not runs:
        return {}
    first, last = min(r.started for r in runs)[:10], max(r.finished or r.started for r in runs)[:10]
    hours = sum(r.total_seconds or 0 for r in runs) / 3600
    return {
        "when": first if first == last else f"{first} to {last}",
        "counts": [
            (f"{sum(r.status == 'ok' for r in runs)}/{len(runs)}", "runs ended well"),
            (str(len({r.model for r in runs})), "models"),
            (str(len({r.task for r in runs})), "tasks"),
            (f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min", "of computing"),
        ],
    }


def percent_or_hole(share: float | None) -> str:
    return HOLE if share is None else percent(share)


def strength(row: Row) -> float:
    """Mean over a row's tasks of the accuracy, rescaled so that chance is 0 and perfection 1."""
    groups = [cell.seeds for cell in row.cells.values() if cell.seeds.data.chance < 1]
    shares = [(s - g.data.chance) / (1 - g.data.chance) for g in groups if (s := g.mean_of_tried) is not None]
    return statistics.fmean(shares) if shares else -1.0


def coloured(rows: Sequence[Row]) -> list[Series]:
    """Each row with its colour: S4 and the Transformer always have the same, then the strongest; the rest is grey."""
    fixed = {"s4": 0, "transformer": 1}
    colours = {
        i: f"c{fixed[row.model]}"
        for i, row in enumerate(rows)
        if row.model in fixed and not row.variant and not row.data_set
    }
    free = [f"c{i}" for i in range(COLOURS) if f"c{i}" not in colours.values()]
    others = sorted((i for i in range(len(rows)) if i not in colours), key=lambda i: -strength(rows[i]))
    colours |= dict(zip(others, free, strict=False))
    return [Series(row, colours.get(i, "other")) for i, row in enumerate(rows)]


def strongest_first(series: Iterable[Series]) -> list[Series]:
    return sorted(series, key=lambda s: (s.colour == "other", s.colour))


def run_anchor(row: Row, task: str) -> str:
    """The id of a cell's details; letters, digits and '-' only."""
    key = "\n".join((row.model, *row.variant, str(row.data_set), task))
    return "run-" + hashlib.sha256(key.encode()).hexdigest()[:10]


def table_rows(results: Aggregate) -> Iterator[dict[str, Any]]:
    """The rows of the comparison table: kind (chance, measured or paper) and entries; cells with links and heat."""
    columns = results.measured_columns
    if not results.main_rows:
        for printed in comparison.table_of(results, every_task=False).rows:
            yield {"kind": "paper", "entries": printed}
        return
    yield {"kind": "chance", "entries": comparison.chance_row(columns)}
    for model in results.models:
        for row in model.main_rows:
            cells = [table_cell(row, column, results) for column in columns]
            average = percent_or_hole(row.average())
            yield {"kind": "measured", "row": row, "cells": cells, "average": average}
        if model.main_rows and (paper := model.published):
            label = f"paper: {paper.model}"
            entries = comparison.published_row(label, paper, columns, model.main_rows[0], paper.six_task_average)
            yield {"kind": "paper", "entries": entries}


def table_cell(row: Row, column: Column, results: Aggregate) -> dict[str, Any]:
    """A cell with its classes; heat: where its mean lies between chance (0) and the best of the column (1)."""
    cell = row.cells.get(column.task)
    entry: Entry = comparison.cell_entry(cell)
    if cell is None:
        return {"entry": entry, "classes": "hole", "anchor": None, "heat": None}
    heat = None
    group = cell.seeds
    classes = ["failed"] * entry.failed
    if group.mean is not None:
        means = [
            c.seeds.mean for r in results.main_rows if (c := r.cells.get(column.task)) and c.seeds.mean is not None
        ]
        reach = max(means) - group.data.chance
        heat = max(0.0, (group.mean - group.data.chance) / reach) if reach > 0 else 0.0
        classes = ["heat"] + ["best"] * cell.best
    return {"entry": entry, "classes": " ".join(classes), "anchor": run_anchor(row, column.task), "heat": heat}


def overview(series: Sequence[Series], columns: Sequence[Column]) -> dict[str, Any] | None:
    """Charts over the tasks that most models have run; None if these are fewer than two."""
    counts = {c.task: sum(was_tried(s, c) for s in series) for c in columns}
    # tasks that nearly as many models have run as the commonest task
    shared = [c for c in columns if counts[c.task] and counts[c.task] >= 0.8 * max(counts.values())]
    chosen = [s for s in series if not s.row.data_set and all(was_tried(s, c) for c in shared)]
    if len(shared) < 2 or len(chosen) < 2:
        return None
    charts = figures.overview_figures(chosen, [c.task for c in shared])
    machines = devices(s.groups[c.task] for s in chosen for c in shared)
    return {"figures": charts, "titles": [c.title for c in shared], "devices": machines} if charts else None


def trust(
    series: Sequence[Series], records: Sequence[Record], published: Published, scale: str
) -> dict[str, Any] | None:
    """How far the ranking agrees with the published one; None where no average can be compared."""
    by_key = {(a.group, a.task): a for a in agreements(records, published, scale)}
    average = by_key["all", AVERAGE]
    if average.spearman is None:
        return None
    tasks = [a for (group, task), a in by_key.items() if group == "all" and task != AVERAGE]
    return {
        "groups": [a for (_, task), a in by_key.items() if task == AVERAGE],
        "missed": sum(a.count(here=False, there=True) for a in tasks),
        "compared": sum(a.count(here=False, there=True) + a.count(here=True, there=True) for a in tasks),
        "figure": agreement_figure(series, average),
    }


def was_tried(series: Series, column: Column) -> bool:
    return column.task in series.groups and bool(series.groups[column.task].tried)


def devices(groups: Iterable[SeedGroup]) -> list[str]:
    return sorted({r.hardware.device for group in groups for r in group.runs})


def task_section(series: Sequence[Series], column: Column) -> dict[str, Any]:
    groups = [(s, s.groups[column.task]) for s in series if column.task in s.groups]
    ranked = sorted(groups, key=lambda pair: -(pair[1].mean_of_ended or 0.0))
    data = groups[0][1].data
    return {
        "id": column.task,
        "title": column.title,
        "data": data,
        "kind": KINDS[data.kind],
        "devices": devices(group for _, group in groups),
        "figures": figures.task_figures(groups),
        "values_behind": [(s, chart_values(group)) for s, group in ranked],
    }


def chart_values(group: SeedGroup) -> list[str]:
    """The values behind a task's charts, as text."""

    def mean(values: Iterable[float | None], text: str) -> str:
        present = [v for v in values if v is not None]
        return text.format(statistics.fmean(present)) if present else HOLE

    losses = [curve[-1][1] for r in group.runs if (curve := figures.curve_of(r, figures.train_loss))]
    return [
        str(comparison.seeds_entry(group)),
        mean((None if r.val_accuracy is None else 100 * r.val_accuracy for r in group.runs), "{:.2f}"),
        mean(losses, "{:.3f}"),
        f"{group.steps_per_second:.3g}" if group.steps_per_second else HOLE,
        f"{group.parameters:,.0f}" if group.parameters else HOLE,
        f"{group.peak_memory_mib:,.0f}" if group.peak_memory_mib else HOLE,
        mean((None if r.total_seconds is None else r.total_seconds / 60 for r in group.runs), "{:.1f}"),
    ]


def kernel_cards(series: Sequence[Series], column: Column) -> Iterator[dict[str, Any]]:
    """Convolution kernels before and after training, of the strongest models of a task that have them."""
    groups = [(s, s.groups[column.task]) for s in strongest_first(series) if column.task in s.groups]
    runs = [(s, r) for s, group in groups for r in [r for r in group.runs if r.kernels][:1]]
    for s, run in runs[:KERNEL_MODELS]:
        charts = []
        for k in run.kernels:
            name = f"layer {k.layer + 1}, feature {k.feature}"
            pictures = [("before", k.picture_before), ("after", k.picture_after)]
            chart = "" if k.picture_before and k.picture_after else figures.kernel_chart(k, s.colour, name)
            charts.append((name, chart, pictures))
        yield {"label": s.label, "task": column.title, "run": run, "figures": charts}


def examples_card(series: Sequence[Series], column: Column) -> dict[str, Any] | None:
    """Test inputs of a task, each with the answer of every model; None if no run kept examples."""
    kept: list[tuple[Series, list[Example]]] = []
    for s in strongest_first(series):
        cell = s.row.cells.get(column.task)
        found = [r.examples for r in cell.seeds.runs if r.examples] if cell and cell.comparable else []
        kept += [(s, found[0])] if found else []
    if not kept:
        return None
    inputs = []
    for i, example in enumerate(kept[0][1]):
        answers = [(s, examples[i]) for s, examples in kept if same_input(examples, i, example)]
        others = [answer for _, answer in answers[ANSWERS_SHOWN:]]
        right = sum(a.label == a.predicted for a in others)
        inputs.append((example, answers[:ANSWERS_SHOWN], len(others), right))
    return {"title": column.title, "inputs": inputs}


def same_input(examples: Sequence[Example], i: int, example: Example) -> bool:
    return i < len(examples) and (examples[i].text, examples[i].picture) == (example.text, example.picture)


def speed_card(name: str, benches: Sequence[Bench], published: Published) -> dict[str, Any] | None:
    results = efficiency(name, benches, published)
    machines = dict.fromkeys(comparison.machine(b.hardware) for b in results.benches)
    charts = list(figures.bench_figures(results))
    return {"title": results.title, "machines": "; ".join(machines), "figures": charts} if charts else None


def failures(results: Aggregate) -> Iterator[tuple[str, str, str]]:
    """(anchor, run, reason) of every run that did not end well or stayed at chance."""
    for row in results.rows:
        for column in results.measured_columns:
            for r in row.cells[column.task].seeds.runs if column.task in row.cells else ():
                if not learned(r):
                    run = f"{row.title} on {column.title}, seed {r.seed}"
                    yield run_anchor(row, column.task), run, failure_reason(r)


def failure_reason(r: Record) -> str:
    if r.status == "ok":
        accuracy, chance = percent(r.test_accuracy or 0), percent(r.data.chance)
        return f"stayed at chance, {accuracy}; the commonest label alone gives {chance}"
    steps = f"after {r.steps_done} of {r.steps_total} steps"
    return f"{r.status} {steps}" + (f": {r.reason}" if r.reason else "")


def flat(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """('model.d_model', '64'), ...: a nested config as command-line overrides would name it."""
    if isinstance(config, dict) and config:
        for key, value in config.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, "null" if config is None else str(config)


def environments(records: Iterable[Record]) -> list[tuple[tuple[tuple[str, str], ...], int]]:
    """(facts, number of runs) of every machine and set of versions, the commonest first."""
    found: Counter[tuple[tuple[str, str], ...]] = Counter()
    for r in records:
        h = r.hardware
        facts = {
            "Device": h.device,
            "Processor": f"{h.processor}, {h.cores} cores, {h.threads} threads, {h.memory_mib / 1024:.0f} GiB",
            "System": h.system,
            "Precision": r.precision,
            "Commit": comparison.commit_name(r.git),
            "Versions": ", ".join(f"{name} {version}" for name, version in sorted(r.versions.items())),
        }
        found[tuple(facts.items())] += 1
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))
