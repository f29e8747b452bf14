"""Records as one self-contained HTML page: no network, light and dark, desk and phone; a pure function of records.

This module computes what the templates show; they format it. page.js makes charts and table interactive; without
JavaScript the charts are static pictures.
"""

import hashlib
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lra.objectives.objective import Metric, objective_of
from lra.records.benchmark import Bench
from lra.records.published import Published
from lra.records.record import Example, Record
from lra.report import charts
from lra.tables import comparison
from lra.tables.aggregate import (
    Aggregate,
    Cell,
    Column,
    Model,
    Row,
    RowKey,
    SeedGroup,
    aggregate,
    best_of,
    is_of_lra,
    learned,
    seed_groups,
)  # fmt: skip
from lra.tables.agreement import AVERAGE, agreements
from lra.tables.comparison import HOLE
from lra.tables.efficiency import EFFICIENCY_TABLES, Efficiency, efficiency, entry
from lra.tables.formats import Entry, Table
from lra.tables.other_tasks import OTHER_TABLES, other_table

KINDS = {
    "official": "Official data",
    "generated": "Data generated here by the benchmark's rules",
    "subset": "Part of the official data",
    "toy": "Toy data in place of the task's own",
}
SECTIONS = {"others": "Other tasks"}
ANSWERS_SHOWN = 7  # below an example, of the strongest models; of the others that of a picked model


def page(records: Sequence[Record], published: Published, scale: str, benches: Sequence[Bench] = ()) -> str:
    """The page for the records of one scale, and the measurements of speed and memory."""
    results = aggregate(records, published, scale)
    rows = results.main_rows or results.rows
    columns = results.measured_columns if results.rows else ()
    shown = [column for column in columns if any(column.task in row.cells for row in rows)]
    tasks = [task_section(rows, column) for column in shown]
    other_rows, other_columns = other_tasks(records, published, scale)
    runs = [r for row in (*results.rows, *other_rows) for r in row.runs]
    content: dict[str, Any] = {
        "results": results,
        "rows": [*results.rows, *other_rows],
        "columns": [*columns, *other_columns],
        "how_to_run": comparison.how_to_run(scale),
        "facts": facts(runs),
        "families": families([*rows, *other_rows]),
        "winners": [card for column in shown if (card := winner(rows, column))],
        "overview": charts.overview(rows, shown) if min(len(rows), len(shown)) > 1 else None,
        "trust": trust(rows, records, published, scale),
        "comparison": main_table(results),
        "variants": comparison.variants_table(results),
        "tasks": tasks,
        "others": [task_section(unchanged(other_rows, column), column) for column in other_columns],
        "other_tables": list(other_tables(other_columns, records, published, scale)),
        "kernels": list(kernel_cards(rows, shown)),
        "examples": [card for column in shown if (card := examples_card(rows, column))],
        "samples": list(sample_cards(other_rows, other_columns)),
        "speed": list(speed_cards(benches, published)),
        "failures": [
            (shown, found)
            for rows, shown in ((results.rows, columns), (other_rows, other_columns))
            if (found := list(failures(rows, shown)))
        ],
        "machines": machines(runs),
    }
    sections = ("variants", "others", "samples", "kernels", "examples", "speed")
    content["navigation"] = [
        ("table", "Table"),
        *((task["id"], task["title"]) for task in tasks),
        *((section, SECTIONS.get(section, section.title())) for section in sections if content[section]),
        *((section, section.title()) for section in ("failures", "runs", "machines")),
    ]
    content |= {"libraries": Markup(charts.bundle()), "chart_config": Markup(charts.as_json(charts.CONFIG))}
    return environment().get_template("page.html.j2").render(content)


def environment() -> Environment:
    templates = Environment(loader=PackageLoader("lra.report"), autoescape=True, undefined=StrictUndefined)
    templates.trim_blocks = templates.lstrip_blocks = True
    templates.filters |= {"flat": flat, "commit": comparison.commit_name, "colour": colour, "score": score_text}
    templates.filters |= {"as_text": comparison.seeds_entry, "anchor": run_anchor, "unique_texts": dict.fromkeys}
    templates.filters |= {"meaning": meaning, "label": charts.label_of, "family": charts.family_of}
    style, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    templates.globals |= {"style": Markup(style), "script": Markup(script), "HOLE": HOLE}
    return templates


def colour(family: str) -> str:
    """The CSS class of a family: f0, f1, ..."""
    return f"f{charts.FAMILIES.index(family)}"


def score_text(score: float | None, metric: Metric) -> str:
    return HOLE if score is None else metric.text(score)


def meaning(signs: Iterable[str]) -> str:
    """The meaning of an entry's signs, for its tooltip."""
    return "; ".join(f"{sign} {comparison.MEANING[sign]}" for sign in dict.fromkeys(signs))


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


def other_tasks(records: Sequence[Record], published: Published, scale: str) -> tuple[list[Row], list[Column]]:
    """Rows and columns of the tasks that are not LRA's; other objectives, each task in tables and charts of its own."""
    groups = seed_groups(r for r in records if r.scale == scale and not is_of_lra(r))
    columns: list[Column] = []
    cells: dict[RowKey, dict[str, Cell]] = {key: {} for key in groups}
    for task in sorted({task for tasks in groups.values() for task in tasks}):
        found = {key: tasks[task] for key, tasks in groups.items() if task in tasks}
        best, like_best = best_of({key: group for key, group in found.items() if not (key.variant or key.data_set)})
        columns.append(Column(task, task, next(iter(found.values())).data.trivial, 1))
        for key, group in found.items():
            cells[key][task] = Cell(group, not (key.variant or key.data_set), key in best, key in like_best, None)
    rows = []
    for key, tasks in groups.items():
        title = next(iter(tasks.values())).runs[0].title
        rows.append(Row(published.model(key.model, title), title, key.variant, key.data_set, cells[key]))
    return rows, columns


def unchanged(rows: Sequence[Row], column: Column) -> list[Row]:
    """The rows of a task without variants, or all where there are only such."""
    found = [row for row in rows if column.task in row.cells]
    return [row for row in found if not row.variant] or found


def other_tables(
    columns: Sequence[Column], records: Sequence[Record], published: Published, scale: str
) -> Iterator[Table]:
    """The papers' tables of other tasks with our rows; of scale paper only, and with at least one run."""
    ran = {column.task for column in columns}
    for name, table in OTHER_TABLES.items():
        if scale == "paper" and ran & {setting.task for setting in table.settings}:
            yield other_table(name, records, published)


def families(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Families of models with their rows, in the order of their colours."""
    found = {family: [row for row in rows if charts.family_of(row) == family] for family in charts.FAMILIES}
    return [(family, members) for family, members in found.items() if members]


def run_anchor(row: Row, task: str) -> str:
    """The id of a cell's details; letters, digits and '-' only."""
    key = "\n".join((row.model, *row.variant, str(row.data_set), task))
    return "run-" + hashlib.sha256(key.encode()).hexdigest()[:10]


def winner(rows: Sequence[Row], column: Column) -> dict[str, Any] | None:
    """The best model of a task, and those that do not differ from it; None without competition."""
    cells = [(row, row.cells[column.task]) for row in rows if column.task in row.cells]
    best = [(row, cell) for row, cell in cells if cell.best]
    if not best:
        return None
    row, cell = best[0]
    others = [row for row, cell in [*best[1:], *cells] if cell.like_best]
    return {"column": column, "row": row, "entry": comparison.seeds_entry(cell.seeds), "others": others}


def trust(rows: Sequence[Row], records: Sequence[Record], published: Published, scale: str) -> dict[str, Any] | None:
    """How far the ranking agrees with the published one; None where no average can be compared."""
    by_key = {(a.group, a.task): a for a in agreements(records, published, scale)}
    average = by_key["all", AVERAGE]
    if average.spearman is None:
        return None
    tasks = [a for (group, task), a in by_key.items() if group == "all" and task != AVERAGE]
    return {
        "groups": [a for (_, task), a in by_key.items() if task == AVERAGE and a.spearman is not None],
        "missed": sum(a.count(here=False, there=True) for a in tasks),
        "compared": sum(a.count(here=False, there=True) + a.count(here=True, there=True) for a in tasks),
        "figure": charts.agreement_figure(rows, average),
    }


def main_table(results: Aggregate) -> dict[str, Any]:
    """The comparison table: header, the row of the trivial answer, a body for each model, signs and notes."""
    columns = results.measured_columns
    printed = comparison.table_of(results, every_task=False, list_failures=False)
    signs = {sign for row in printed.rows for e in row for sign in e.signs}
    notes = [comparison.AVERAGE_RULE]
    # the last two name machines and commits, which have a section
    notes += comparison.measured_notes(results, columns, list_failures=False)[:-2]
    return {
        "columns": [(column, metric_of(results, column)) for column in columns],
        "first": printed.rows[0] if results.main_rows else None,
        "bodies": list(table_bodies(results)),
        "signs": [(sign, text) for sign, text in comparison.MEANING.items() if sign in signs],
        "notes": [*notes, comparison.published_note(results.scale)],
    }


def metric_of(results: Aggregate, column: Column) -> Metric | None:
    """The metric of a column; None if nothing was run."""
    cells = (row.cells[column.task] for row in results.rows if column.task in row.cells)
    return next((cell.seeds.objective.metric for cell in cells), None)


def table_bodies(results: Aggregate) -> Iterator[dict[str, Any]]:
    """For each model its measured rows (cells with links and heat) and its published row, or only the latter.

    Models with an average come first, the best on top; then the others, by their published one.
    """
    columns = results.measured_columns
    for model in sorted(results.models, key=best_average, reverse=True):
        paper = model.published
        for i, row in enumerate(model.main_rows):
            printed = None
            if i == 0 and paper:
                name = f"paper: {paper.model}"
                printed = comparison.published_row(name, paper, columns, row, paper.six_task_average)
            cells = [table_cell(row, column, results) for column in columns]
            body = {"row": row, "family": charts.family_of(row), "cells": cells, "average": row.average()}
            yield {**body, "paper": printed}
        if not model.main_rows and paper and (results.scale == "paper" or not results.main_rows):
            name = f"{paper.model} (paper)"
            printed = comparison.published_row(name, paper, columns, None, paper.six_task_average)
            yield {"row": None, "model": model.info.stem, "family": charts.family(model.info), "paper": printed}


def best_average(model: Model) -> float:
    measured = [average for row in model.main_rows if (average := row.average()) is not None]
    published = model.published.six_task_average if model.published else None
    return max(measured) if measured else (published or 0.0) / 100 - 2


def table_cell(row: Row, column: Column, results: Aggregate) -> dict[str, Any]:
    """A cell with its classes; heat: where its mean lies between the trivial score (0) and the best of the column."""
    cell = row.cells.get(column.task)
    shown: Entry = comparison.cell_entry(cell)
    if cell is None:
        return {"entry": shown, "classes": "hole", "anchor": None, "heat": None, "value": None}
    heat = None
    group = cell.seeds
    metric = group.objective.metric
    classes = ["failed"] * shown.failed
    if group.mean is not None:
        means = [
            c.seeds.mean for r in results.main_rows if (c := r.cells.get(column.task)) and c.seeds.mean is not None
        ]
        reach = (max if metric.higher_is_better else min)(means) - group.data.trivial
        heat = max(0.0, (group.mean - group.data.trivial) / reach) if reach else 0.0
        classes = ["heat"] + ["best"] * cell.best
    value = None if group.mean is None else metric.text(group.mean, metric.decimals + 2)
    anchor = run_anchor(row, column.task)
    return {"entry": shown, "classes": " ".join(classes), "anchor": anchor, "heat": heat, "value": value}


def task_section(rows: Sequence[Row], column: Column) -> dict[str, Any]:
    groups = [(row, row.cells[column.task].seeds) for row in rows if column.task in row.cells]
    objective = groups[0][1].objective
    data = groups[0][1].data
    return {
        "id": column.task,
        "title": column.title,
        "data": data,
        "kind": KINDS[data.kind],
        "trivial": f"{objective.trivial_answer} scores {objective.metric.text(data.trivial)}",
        "ranking": charts.ranking(rows, column),
        "curves": charts.task_curves(groups),
        "metric": objective.metric,
        "values": [(row, chart_values(group)) for row, group in groups],
    }


def chart_values(group: SeedGroup) -> list[str]:
    """The values behind a task's charts, as text."""

    def mean(values: Iterable[float | None], text: Callable[[float], str]) -> str:
        present = [v for v in values if v is not None]
        return text(statistics.fmean(present)) if present else HOLE

    losses = [curve[-1][1] for r in group.runs if (curve := charts.curve_of(r, charts.train_loss))]
    return [
        str(comparison.seeds_entry(group)),
        mean((r.val_score for r in group.runs), group.objective.metric.text),
        mean(losses, "{:.3f}".format),
        f"{group.parameters:,.0f}" if group.parameters else HOLE,
    ]


def kernel_cards(rows: Sequence[Row], columns: Sequence[Column]) -> Iterator[dict[str, Any]]:
    """For each model with kernels: the convolution kernels of one run on each task, before and after training."""
    for row in charts.best_first(rows):
        cards = []
        for column in columns:
            runs = row.cells[column.task].seeds.runs if column.task in row.cells else ()
            run = next((r for r in runs if r.kernels), None)
            if run is None:
                continue
            curves = [k for k in run.kernels if not (k.picture_before and k.picture_after)]
            pictures = [k for k in run.kernels if k.picture_before and k.picture_after]
            chart = charts.kernel_figure(row, curves) if curves else None
            cards.append({"task": column.title, "run": run, "chart": chart, "pictures": pictures})
        if cards:
            yield {"row": row, "family": charts.family_of(row), "cards": cards}


def examples_card(rows: Sequence[Row], column: Column) -> dict[str, Any] | None:
    """Test inputs of a task, each with the answer of every model; None if no run kept examples."""
    kept: list[tuple[Row, list[Example]]] = []
    for row in charts.best_first(rows):
        cell = row.cells.get(column.task)
        found = [r.examples for r in cell.seeds.runs if r.examples] if cell and cell.comparable else []
        kept += [(row, found[0])] if found else []
    if not kept:
        return None
    inputs = []
    for i, example in enumerate(kept[0][1]):
        answers = [
            (row, charts.family_of(row), examples[i], n >= ANSWERS_SHOWN)
            for n, (row, examples) in enumerate(kept)
            if same_input(examples, i, example)
        ]
        others = [answer for _, _, answer, folded in answers if folded]
        right = sum(a.label == a.predicted for a in others)
        inputs.append((example, answers, len(others), right))
    return {"title": column.title, "inputs": inputs}


def sample_cards(rows: Sequence[Row], columns: Sequence[Column]) -> Iterator[dict[str, Any]]:
    """For each task and model that kept any: what was drawn from the model after its training."""
    for column in columns:
        for row in charts.best_first(rows):
            runs = row.cells[column.task].seeds.runs if column.task in row.cells else ()
            found = next((r for r in runs if any(example.is_sample for example in r.examples)), None)
            if found is not None:
                samples = [example for example in found.examples if example.is_sample]
                result = objective_of(found.objective).result(found.test_totals or {})
                yield {"task": column.title, "row": row, "result": result, "samples": samples}


def same_input(examples: Sequence[Example], i: int, example: Example) -> bool:
    return i < len(examples) and (examples[i].text, examples[i].picture) == (example.text, example.picture)


def speed_cards(benches: Sequence[Bench], published: Published) -> Iterator[dict[str, Any]]:
    """A card for each benchmark file: one machine, one sitting, so that its numbers compare."""
    for name, (table, _) in EFFICIENCY_TABLES.items():
        for bench in sorted((b for b in benches if b.table == table), key=lambda b: b.started):
            results = efficiency(name, [bench], published)
            figures = list(charts.bench_figures(results, published))
            if figures:
                yield {
                    "title": results.title,
                    "machine": comparison.machine(bench.hardware),
                    "bench": bench,
                    "figures": figures,
                    "values": bench_values(results),
                }


def bench_values(results: Efficiency) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of what was measured here."""
    columns = [c for c in results.columns if any(c.name == column for _, column in results.measured)]
    rows = [
        [row, *(str(entry(results.measured.get((row, c.name)), c.unit)) for c in columns)]
        for row in dict.fromkeys(row for row, _ in results.measured)
    ]
    return ["Model", *(c.name if c.unit == c.quantity else f"{c.name} [{c.unit}]" for c in columns)], rows


def failures(rows: Sequence[Row], columns: Sequence[Column]) -> Iterator[dict[str, Any]]:
    """Rows with a run that did not end well or stayed at the trivial score; a sign for each run, by task."""
    for row in rows:
        cells = {}
        for column in columns:
            runs = row.cells[column.task].seeds.runs if column.task in row.cells else ()
            cells[column.task] = [(failure_sign(r), failure_reason(r)) for r in runs]
        if any(sign != "✓" for signs in cells.values() for sign, _ in signs):
            yield {"row": row, "family": charts.family_of(row), "cells": cells}


def failure_sign(r: Record) -> str:
    if learned(r):
        return "✓"
    signs = {"ok": comparison.FAIL, "running": comparison.RUNNING, "diverged": "div.", "oom": "OOM"}
    return signs.get(r.status, r.status)


def failure_reason(r: Record) -> str:
    group = SeedGroup((r,))
    metric = group.objective.metric
    seed = f"seed {r.seed}: "
    if r.status == "ok":
        scores = f"{metric.title} {score_text(r.test_score, metric)}"
        if learned(r):
            return seed + scores
        trivial = f"{group.objective.trivial_answer} gives {metric.text(r.data.trivial)}"
        return f"{seed}did not learn, {scores}; {trivial}"
    steps = f"after {r.steps_done} of {r.steps_total} steps"
    return f"{seed}{r.status} {steps}" + (f": {r.reason}" if r.reason else "")


def flat(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """('model.d_model', '64'), ...: a nested config as command-line overrides would name it."""
    if isinstance(config, dict) and config:
        for key, value in config.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, "null" if config is None else str(config)


def machines(records: Sequence[Record]) -> dict[str, list[tuple[str, int]]]:
    """Machines, sets of versions and commits, each listed once with its number of runs, the commonest first."""

    def counted(name: Callable[[Record], str]) -> list[tuple[str, int]]:
        return sorted(Counter(map(name, records)).items(), key=lambda item: (-item[1], item[0]))

    return {
        "Machine": counted(machine_name),
        "Arithmetic": counted(lambda r: r.precision),
        "Versions": counted(lambda r: ", ".join(f"{name} {version}" for name, version in sorted(r.versions.items()))),
        "Commit": counted(lambda r: comparison.commit_name(r.git)),
    }


def machine_name(r: Record) -> str:
    h = r.hardware
    processor = "" if h.processor == h.device else f"{h.processor}, "
    size = f"{h.cores} cores, {h.threads} threads, {h.memory_mib / 1024:.0f} GiB"
    return f"{h.device} ({processor}{size}; {h.system})"
