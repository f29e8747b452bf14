"""The LRA paper's bubble plot over several tasks at once: mean accuracy against speed and size, area peak memory."""

import math
from collections.abc import Callable, Sequence
from html import escape

from lra.records import significance
from lra.records.published import Published
from lra.report.svg import Bubble, bubble_chart, short_number
from lra.report.task_charts import apart, memory, parameters, percent, speed
from lra.tables import comparison
from lra.tables.aggregate import Row, SeedGroup


def overview(rows: Sequence[Row], columns: dict[str, str], colours: dict[int, str], published: Published) -> str:
    """A card with two charts over the tasks that most models have run; nothing where those are fewer than two."""
    tasks = shared_tasks(rows, columns)
    chosen = [i for i, row in enumerate(rows) if not row.part and all(tried(row, t) for t in tasks)]
    if len(tasks) < 2 or len(chosen) < 2:
        return ""
    names = {i: comparison.row_label(rows[i], published.model(rows[i].model, rows[i].title)) for i in chosen}
    figures = "".join(
        figure(title, unit, measure, tasks, {i: rows[i] for i in chosen}, names, colours)
        for title, unit, measure in (
            ("Accuracy against speed", "training steps a second", speed),
            ("Accuracy against size", "parameters", parameters),
        )
    )
    titles = [columns[t] for t in tasks]
    said = f"Means over {', '.join(titles[:-1])} and {titles[-1]}, of the models that have run them all."
    said += " A seed that failed counts as chance." + apart(rows[i].cells[t] for i in chosen for t in tasks)
    lead = f'<p class="lead">{escape(said)}</p>'
    return f'<div class="card">{lead}<div class="charts">{figures}</div></div>' if figures else ""


def tried(row: Row, task: str) -> bool:
    return task in row.cells and row.cells[task].for_average is not None


def shared_tasks(rows: Sequence[Row], columns: dict[str, str]) -> list[str]:
    """Tasks that nearly as many models have run as the commonest task."""
    counts = {t: sum(tried(row, t) for row in rows) for t in columns}
    most = max(counts.values(), default=0)
    return [t for t, n in counts.items() if n and n >= 0.8 * most]


def figure(
    title: str,
    unit: str,
    measure: Callable[[SeedGroup], float | None],
    tasks: Sequence[str],
    rows: dict[int, Row],
    names: dict[int, str],
    colours: dict[int, str],
) -> str:
    found = {}
    for i, row in rows.items():
        values = [value for t in tasks if (value := measure(row.cells[t]))]
        if len(values) == len(tasks):
            held = max(memory(row.cells[t]) or 0.0 for t in tasks)
            # a mean of rates and sizes that differ by task is one of their logarithms
            found[i] = (math.exp(significance.mean([math.log(v) for v in values])), row.average(tasks) or 0.0, held)
    if len(found) < 2:
        return ""
    largest = max(held for _, _, held in found.values()) or 1.0
    bubbles = [
        Bubble(
            x,
            y,
            held / largest,
            colours[i],
            names[i],
            f"{names[i]}: {comparison.percent(y)} %, {short_number(x)} {unit}, {held:.0f} MiB",
        )
        for i, (x, y, held) in found.items()
    ]
    chart = bubble_chart(bubbles, unit, title, y_text=percent)
    return f"<figure><figcaption>{title} <span>test, percent; area: peak memory</span></figcaption>{chart}</figure>"
