"""Records as one self-contained HTML page: no network, light and dark, desk and phone; a pure function of records."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from lra.records import significance
from lra.records.benchmark import Bench
from lra.records.published import Published
from lra.records.record import Record
from lra.report.bench_charts import bench_section
from lra.report.examples import examples_section
from lra.report.kernel_charts import kernels_section
from lra.report.overview import overview
from lra.report.runs import environment_section, run_anchor, runs_section
from lra.report.svg import COLOURS
from lra.report.task_charts import task_charts
from lra.tables import aggregate, comparison
from lra.tables.aggregate import Row, SeedGroup

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
ORIGIN = (
    "Every number on this page is computed from the run records under results/runs and the measurements under "
    "results/bench."
)
# a link into a closed fold opens it, in browsers that do not by themselves
REVEAL = """
function reveal() {
  const target = document.getElementById(location.hash.slice(1));
  if (!target) return;
  for (let d = target.closest("details"); d; d = d.parentElement.closest("details")) d.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();
"""


def page(records: Sequence[Record], published: Published, scale: str, benches: Sequence[Bench] = ()) -> str:
    """The whole page for the records of one scale, and the measurements of speed and memory."""
    records = [r for r in records if r.scale == scale]
    rows = sorted_rows(records, published)
    columns = aggregate.columns_of(records, every=False)
    colours = colour_of(rows)
    run_tasks = [t for t in columns if any(t in row.cells for row in rows)]
    sections = {
        "Table": table_section(rows, columns, published, scale, overview(rows, columns, colours, published)),
        **{columns[t]: task_charts(rows, t, columns[t], colours, published) for t in run_tasks},
        "Kernels": kernels_section(rows, columns, colours, published),
        "Examples": examples_section(rows, columns, colours, published),
        "Speed": bench_section(benches, published),
        "Failures": failures_section(rows, columns),
        "Runs": runs_section(rows, columns, published),
        "Environment": environment_section(records),
    }
    places = {columns[t]: t for t in run_tasks}
    navigation = "".join(
        f'<a href="#{escape(places.get(name, name.lower()))}">{escape(name)}</a>'
        for name, content in sections.items()
        if content
    )
    body = [
        f"<header><h1>Long Range Arena</h1>{lead(records, scale)}{facts(records, rows)}</header>",
        f"<nav><div>{navigation}</div></nav><main>",
        *sections.values(),
        f"</main><footer>{ORIGIN}</footer>",
    ]
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">'
        f"<title>Long Range Arena, scale {escape(scale)}</title><style>{style}</style>"
    )
    script = f"<script>{REVEAL}</script>"
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n'
        + "\n".join(body)
        + f"\n{script}</body></html>\n"
    )


def sorted_rows(records: Sequence[Record], published: Published) -> list[Row]:
    order = {stem: i for i, stem in enumerate(published.models)}
    return sorted(
        aggregate.rows_of(records), key=lambda r: (order.get(r.model, len(order)), r.model, r.variant, r.part)
    )


def strength(row: Row) -> float:
    """Mean share of the way from chance to perfection over a row's tasks."""
    shares = [(score - c.chance) / (1 - c.chance) for c in row.cells.values() if (score := c.for_average) is not None]
    return significance.mean(shares) if shares else -1.0


def colour_of(rows: Sequence[Row]) -> dict[int, str]:
    """A colour class for each row: S4 and the Transformer always the same, then the strongest; the rest grey."""
    fixed = {"s4": 0, "transformer": 1}
    taken = {i: f"c{fixed[r.model]}" for i, r in enumerate(rows) if r.model in fixed and not r.variant and not r.part}
    free = [f"c{i}" for i in range(COLOURS) if f"c{i}" not in taken.values()]
    others = sorted((i for i in range(len(rows)) if i not in taken), key=lambda i: -strength(rows[i]))
    return {i: taken.get(i, "other") for i in range(len(rows))} | dict(zip(others, free, strict=False))


def lead(records: Sequence[Record], scale: str) -> str:
    if not records:
        return f'<p class="lead">{escape(comparison.how_to_run(scale))}</p>'
    first, last = min(r.started for r in records)[:10], max(r.finished or r.started for r in records)[:10]
    when = first if first == last else f"{first} to {last}"
    cut = "cut down from the published recipes, to compare within this page"
    meaning = "the published recipes" if scale == "paper" else cut
    text = f"Test accuracy of sequence models at scale <b>{escape(scale)}</b> ({meaning}), measured {when}."
    return f'<p class="lead">{text}</p>'


def facts(records: Sequence[Record], rows: Sequence[Row]) -> str:
    hours = sum(r.total_seconds or 0 for r in records) / 3600
    ended = sum(r.status == "ok" for r in records)
    known = [
        (f"{ended}/{len(records)}", "runs ended well"),
        (str(len({row.model for row in rows})), "models"),
        (str(len({r.task for r in records})), "tasks"),
        (f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min", "of computing"),
    ]
    items = "".join(f"<li><b>{value}</b><span>{name}</span></li>" for value, name in known)
    return f'<ul class="facts">{items}</ul>' if records else ""


def table_section(rows: Sequence[Row], columns: dict[str, str], published: Published, scale: str, overview: str) -> str:
    """The comparison table: measured rows, each cell linked to its runs, with the published row beneath."""
    table = comparison.scale_table([r for row in rows for r in row.runs], published, scale, every_task=False)
    head = "".join(f"<th>{escape(name)}</th>" for name in table.header)
    body = []
    best = {task: aggregate.best_cells(rows, task) for task in columns}
    if rows:
        body.append(plain_row([e.text for e in table.rows[0]], "chance"))
    for i, row in enumerate(rows):
        label = escape(comparison.row_label(row, published.model(row.model, row.title)))
        tds = "".join(cell_html(row, task, i in best[task][0], i in best[task][1], rows) for task in columns)
        average = row.average(tuple(comparison.TASKS))
        mean = comparison.HOLE if average is None else comparison.percent(average)
        ended = f"{sum(r.status == 'ok' for r in row.runs)}/{len(row.runs)}"
        body.append(f'<tr class="measured"><td>{label}</td>{tds}<td>{mean}</td><td>{ended}</td></tr>')
        paper = published.row_of(row.model)
        if paper is not None and (i + 1 == len(rows) or rows[i + 1].model != row.model):
            reference = next(r for r in rows if r.model == row.model)
            name = f"paper: {paper.model}"
            entries = comparison.published_line(name, paper, columns, reference, paper.six_task_average)
            body.append(plain_row([e.text for e in entries], "paper"))
    if not rows:
        body = [plain_row([e.text for e in row], "paper") for row in table.rows]
    shown = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    told = set(comparison.failure_notes(rows, columns))
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes if note not in told)
    card = f'<div class="card">{shown}<ul class="notes">{notes}</ul></div>{overview}'
    return f'<section id="table"><h2>Comparison</h2>{card}</section>'


def plain_row(texts: Sequence[str], kind: str) -> str:
    return f'<tr class="{kind}">' + "".join(f"<td>{escape(text)}</td>" for text in texts) + "</tr>"


def cell_html(row: Row, task: str, best: bool, like_best: bool, rows: Sequence[Row]) -> str:
    cell = row.cells.get(task)
    if cell is None:
        return f'<td class="hole">{comparison.HOLE}</td>'
    text = (comparison.LIKE_BEST + " " if like_best else "") + comparison.cell_text(cell)
    number, _, count = text.rpartition(" (")
    number, _, spread = number.partition(" ± ")
    kinds, style = ["failed" if cell.tried and cell.mean is None else ""], ""
    if cell.mean is not None:
        kinds += ["heat", "best" if best else ""]
        style = f' style="--h:{warmth(cell, task, rows):.2f}"'
    detail = (f"± {spread} " if spread else "") + f"({count}"
    inside = f"{escape(number)} <small>{escape(detail)}</small>"
    anchor = run_anchor(row, task)
    return f'<td class="{" ".join(filter(None, kinds))}"{style}><a href="#{anchor}">{inside}</a></td>'


def warmth(cell: SeedGroup, task: str, rows: Sequence[Row]) -> float:
    """Where a cell stands between chance (0) and the best of its column (1)."""
    means = [c.mean for row in rows if (c := row.cells.get(task)) is not None and c.mean is not None]
    top = max(means)
    return max(0.0, ((cell.mean or 0) - cell.chance) / (top - cell.chance)) if top > cell.chance else 0.0


def failures_section(rows: Sequence[Row], columns: dict[str, str]) -> str:
    """Every run that did not end well or stayed at chance."""
    items = []
    for row in rows:
        for task in columns:
            for r in row.cells[task].runs if task in row.cells else ():
                if not aggregate.learned(r):
                    run = escape(f"{row.title} on {columns[task]}, seed {r.seed}")
                    items.append(f'<li><a href="#{run_anchor(row, task)}">{run}</a>: {escape(why_not(r))}</li>')
    content = f"<ul>{''.join(items)}</ul>" if items else '<p class="good">None: every run ended and beat chance.</p>'
    return f'<section id="failures"><h2>Failed or unfinished</h2><div class="card">{content}</div></section>'


def why_not(r: Record) -> str:
    if r.status == "ok":
        accuracy, chance = comparison.percent(r.test_accuracy or 0), comparison.percent(r.data.chance)
        return f"stayed at chance, {accuracy}; the commonest label alone gives {chance}"
    steps = f"after {r.steps_done} of {r.steps_total} steps"
    return f"{r.status} {steps}" + (f": {r.reason}" if r.reason else "")
