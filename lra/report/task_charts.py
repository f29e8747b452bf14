"""The charts of one task: learning curves, accuracy against speed and size, and the same values as a table."""

from collections.abc import Callable, Iterable, Sequence
from html import escape

from lra.records import significance
from lra.records.published import Published
from lra.records.record import Point, Record
from lra.report.svg import Bubble, Line, bubble_chart, line_chart, short_number
from lra.tables import comparison
from lra.tables.aggregate import Row, SeedGroup

POINTS = 60
KINDS = {
    "official": "Official data",
    "generated": "Data generated here by the benchmark's rules",
    "subset": "Part of the official data",
    "toy": "Toy data in place of the task's own",
}


def task_charts(rows: Sequence[Row], task: str, title: str, colours: dict[int, str], published: Published) -> str:
    """A section with four charts and a table of their values."""
    chosen = {i: row for i, row in enumerate(rows) if task in row.cells}
    labels = {i: comparison.row_label(row, published.model(row.model, row.title)) for i, row in chosen.items()}
    one = next(iter(chosen.values())).cells[task].runs[0]
    figures = [
        curve_figure("Accuracy", "validation, percent", chosen, task, colours, labels, val_accuracy, one.data.chance),
        curve_figure("Loss", "training", chosen, task, colours, labels, train_loss, None),
        bubble_figure("Accuracy against speed", "training steps a second", chosen, task, colours, labels, speed),
        bubble_figure("Accuracy against size", "parameters", chosen, task, colours, labels, parameters),
    ]
    counts = ", ".join(f"{n:,} {split}" for split, n in one.data.counts.items())
    kind = KINDS[one.data.kind]
    about = f"{kind}: {counts}. Always answering the commonest label scores {comparison.percent(one.data.chance)}."
    about += apart(row.cells[task] for row in chosen.values())
    grid = "".join(f for f in figures if f)
    values = values_table(chosen, task, colours, labels)
    return (
        f'<section id="{escape(task)}"><h2>{escape(title)}</h2><div class="card"><p class="lead">{escape(about)}</p>'
        f'<div class="charts">{grid}</div>{values}</div></section>'
    )


def apart(cells: Iterable[SeedGroup]) -> str:
    """A warning where speed and memory come from machines of several kinds; else nothing."""
    devices = sorted({r.hardware.device for cell in cells for r in cell.runs})
    return f" Speed and memory are of different machines ({'; '.join(devices)})." if len(devices) > 1 else ""


def val_accuracy(p: Point) -> float | None:
    return p.val_accuracy


def train_loss(p: Point) -> float | None:
    return p.train_loss


def speed(cell: SeedGroup) -> float | None:
    """Median over the cell's runs of the steps a second that each recorded."""
    values = sorted(r.steps_per_second for r in cell.runs if r.steps_per_second)
    return values[len(values) // 2] if values else None


def parameters(cell: SeedGroup) -> float | None:
    return cell.runs[0].parameters or None


def memory(cell: SeedGroup) -> float | None:
    values = [r.peak_memory_mib for r in cell.runs if r.peak_memory_mib]
    return max(values) if values else None


def height(cell: SeedGroup) -> float | None:
    """Mean test accuracy of all runs that ended well, at chance or not: what a chart shows."""
    scores = [r.test_accuracy for r in cell.runs if r.status == "ok" and r.test_accuracy is not None]
    return significance.mean(scores) if scores else None


def percent(share: float) -> str:
    return f"{100 * share:g}" if abs(100 * share - round(100 * share)) < 1e-6 else f"{100 * share:.1f}"


def curve_figure(
    name: str,
    unit: str,
    rows: dict[int, Row],
    task: str,
    colours: dict[int, str],
    labels: dict[int, str],
    value: Callable[[Point], float | None],
    chance: float | None,
) -> str:
    lines = []
    for i, row in rows.items():
        runs = [(r, line) for r in row.cells[task].runs if (line := points_of(r, value))]
        average = mean_line([line for _, line in runs])
        for r, line in runs:
            alone = average is None
            label = labels[i] if alone and r is runs[0][0] and colours[i] != "other" else None
            lines.append(Line(line, colours[i], f"{labels[i]}, seed {r.seed}", label, thin=not alone))
        if average is not None:
            label = labels[i] if colours[i] != "other" else None
            lines.append(Line(average, colours[i], f"{labels[i]}, mean of {len(runs)} seeds", label))
    if not lines:
        return ""
    level = None if chance is None else (chance, "commonest label")
    text = percent if chance is not None else short_number
    chart = line_chart(lines, "training steps", f"{name} over training steps", y_text=text, level=level)
    return f"<figure><figcaption>{name} <span>{unit}</span></figcaption>{chart}</figure>"


def points_of(r: Record, value: Callable[[Point], float | None]) -> list[tuple[float, float]]:
    """(step, value) of a run's curve, thinned to at most POINTS and one, the last kept."""
    line = [(float(p.step), v) for p in r.curve if (v := value(p)) is not None]
    stride = -(-len(line) // POINTS) if line else 1
    return line[:-1:stride] + line[-1:]


def mean_line(lines: Sequence[list[tuple[float, float]]]) -> list[tuple[float, float]] | None:
    """The mean of two curves or more where all have a value; None if there is nothing to average."""
    if len(lines) < 2:
        return None
    tables_ = [dict(line) for line in lines]
    steps = sorted(set.intersection(*(set(t) for t in tables_)))
    return [(step, significance.mean([t[step] for t in tables_])) for step in steps] or None


def bubble_figure(
    name: str,
    unit: str,
    rows: dict[int, Row],
    task: str,
    colours: dict[int, str],
    labels: dict[int, str],
    measure: Callable[[SeedGroup], float | None],
) -> str:
    found = {i: (x, y) for i, row in rows.items() if (x := measure(row.cells[task])) and (y := height(row.cells[task]))}
    if len(found) < 2:
        return ""
    sizes = {i: memory(rows[i].cells[task]) or 0.0 for i in found}
    largest = max(sizes.values()) or 1.0
    bubbles = [
        Bubble(
            x,
            y,
            sizes[i] / largest,
            colours[i],
            labels[i],
            f"{labels[i]}: {comparison.percent(y)} %, {short_number(x)} {unit}, {sizes[i]:.0f} MiB",
        )
        for i, (x, y) in found.items()
    ]
    chart = bubble_chart(bubbles, unit, name, y_text=percent)
    return f"<figure><figcaption>{name} <span>test, percent; area: peak memory</span></figcaption>{chart}</figure>"


def values_table(rows: dict[int, Row], task: str, colours: dict[int, str], labels: dict[int, str]) -> str:
    """What the charts show, as numbers, best first."""
    head = ("Model", "Test accuracy", "Validation", "Training loss", "Steps/s", "Parameters", "Peak MiB", "Minutes")
    order = sorted(rows, key=lambda i: -(height(rows[i].cells[task]) or 0.0))
    lines = []
    for i in order:
        cell = rows[i].cells[task]
        best = [r.val_accuracy for r in cell.runs if r.val_accuracy is not None]
        losses = [line[-1][1] for r in cell.runs if (line := points_of(r, train_loss))]
        minutes = [r.total_seconds / 60 for r in cell.runs if r.total_seconds is not None]
        values = [
            comparison.cell_text(cell),
            comparison.percent(significance.mean(best)) if best else comparison.HOLE,
            f"{significance.mean(losses):.3f}" if losses else comparison.HOLE,
            f"{speed(cell):.3g}" if speed(cell) else comparison.HOLE,
            f"{parameters(cell):,.0f}" if parameters(cell) else comparison.HOLE,
            f"{memory(cell):,.0f}" if memory(cell) else comparison.HOLE,
            f"{significance.mean(minutes):.1f}" if minutes else comparison.HOLE,
        ]
        name = f'<td><span class="dot {colours[i]}"></span>{escape(labels[i])}</td>'
        lines.append(f"<tr>{name}" + "".join(f"<td>{escape(v)}</td>" for v in values) + "</tr>")
    header = "".join(f"<th>{h}</th>" for h in head)
    table = f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    return f'<details class="values"><summary>The values behind these charts</summary>{table}</details>'
