"""Test inputs as a page shows them: each once, and beneath it what every model said of it."""

from collections.abc import Sequence
from html import escape

from lra.records.published import Published
from lra.records.record import Example, Record
from lra.tables import comparison
from lra.tables.aggregate import Row, common_data

SHOWN = 7  # answers under an input, of the strongest models; the others are counted


def examples_section(
    rows: Sequence[Row], columns: dict[str, str], colours: dict[int, str], published: Published
) -> str:
    """A card for each task whose runs kept examples; nothing where none did."""
    cards = [card for task, title in columns.items() if (card := task_card(rows, task, title, colours, published))]
    if not cards:
        return ""
    return f'<section id="examples"><h2>Examples</h2>{"".join(cards)}</section>'


def task_card(rows: Sequence[Row], task: str, title: str, colours: dict[int, str], published: Published) -> str:
    data = common_data(rows, task)
    runs: dict[int, Record] = {}
    for i, row in enumerate(rows):
        cell = row.cells.get(task)
        if cell is not None and cell.tested_on == data:
            kept = [r for r in cell.runs if r.examples]
            runs |= {i: kept[0]} if kept else {}
    if not runs:
        return ""
    # coloured rows are the strongest
    order = sorted(runs, key=lambda i: (colours[i] == "other", colours[i], i))
    labels = {i: comparison.row_label(rows[i], published.model(rows[i].model, rows[i].title)) for i in order}
    first = runs[order[0]].examples
    figures = []
    for n, e in enumerate(first):
        answers = [(i, runs[i].examples[n]) for i in order if same_input(runs[i].examples, n, e)]
        figures.append(figure(e, answers, labels, colours))
    about = "Inputs evenly spread over the test set, one seed of each model; the probability is the one it gave."
    inside = f'<h3>{escape(title)}</h3><p class="lead">{about}</p><div class="examples">{"".join(figures)}</div>'
    return f'<div class="card">{inside}</div>'


def same_input(examples: Sequence[Example], n: int, e: Example) -> bool:
    return n < len(examples) and (examples[n].text, examples[n].picture) == (e.text, e.picture)


def figure(e: Example, answers: Sequence[tuple[int, Example]], labels: dict[int, str], colours: dict[int, str]) -> str:
    lines = "".join(
        f'<li><span class="dot {colours[i]}"></span>{escape(labels[i])} {verdict(answer)}</li>'
        for i, answer in answers[:SHOWN]
    )
    rest = [answer for _, answer in answers[SHOWN:]]
    if rest:
        right = sum(a.label == a.predicted for a in rest)
        lines += f"<li>{len(rest)} more: {right} right</li>"
    return f"<figure>{shown(e)}<figcaption>label {e.label}</figcaption><ul>{lines}</ul></figure>"


def shown(e: Example) -> str:
    """The input itself."""
    if e.picture is not None:
        return f'<img alt="input" src="data:image/png;base64,{e.picture}">'
    return f"<pre>{escape(e.text or '')}</pre>"


def verdict(e: Example) -> str:
    sure = f" {100 * e.probability:.0f} %" if e.probability is not None else ""
    kind, sign = ("good", "✓") if e.label == e.predicted else ("bad", "✗")
    return f'<span class="{kind}">{sign} {e.predicted}</span><small>{sure}</small>'
