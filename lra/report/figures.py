"""The page's charts as SVG: learning curves, accuracy against speed and size, benchmarks, convolution kernels."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape

from markupsafe import Markup

from lra.records.record import Kernel, Point, Record
from lra.report.svg import COLOURS, Bubble, Line, bubble_chart, line_chart, scaling_chart, short_number
from lra.tables.aggregate import Row, SeedGroup
from lra.tables.agreement import Agreement
from lra.tables.comparison import percent
from lra.tables.efficiency import Efficiency

CURVE_POINTS = 60
# x axes of the accuracy charts: title, unit, value of a seed group
COSTS: tuple[tuple[str, str, Callable[[SeedGroup], float | None]], ...] = (
    ("Accuracy against speed", "training steps a second", lambda group: group.steps_per_second),
    ("Accuracy against size", "parameters", lambda group: group.parameters),
)
KERNEL_WIDTH, KERNEL_HEIGHT, KERNEL_BOTTOM = 260.0, 120.0, 16.0


@dataclass(frozen=True)
class Series:
    """A row of the table with its colour in all charts, a CSS class: c0, c1, ... or other (grey)."""

    row: Row
    colour: str

    @property
    def label(self) -> str:
        return self.row.label

    @cached_property
    def groups(self) -> dict[str, SeedGroup]:
        """The row's seed groups by task."""
        return {task: cell.seeds for task, cell in self.row.cells.items()}

    @property
    def end_label(self) -> str | None:
        """The label at the end of a line; grey lines have none."""
        return None if self.colour == "other" else self.label


@dataclass(frozen=True)
class Figure:
    title: str
    note: str
    chart: Markup


def task_figures(groups: Sequence[tuple[Series, SeedGroup]]) -> list[Figure]:
    """Learning curves of one task, and accuracy against speed and size; without those that have no data."""
    chance = groups[0][1].data.chance
    found = [
        curve_figure(groups, "Accuracy", "validation, percent", lambda p: p.val_accuracy, chance),
        curve_figure(groups, "Loss", "training", train_loss),
    ]
    for title, unit, cost in COSTS:
        points = [(s, cost(group), group.mean_of_ended, group.peak_memory_mib) for s, group in groups]
        found.append(bubble_figure(title, unit, [(s, x, y, area or 0.0) for s, x, y, area in points if x and y]))
    return [figure for figure in found if figure]


def overview_figures(series: Sequence[Series], tasks: Sequence[str]) -> list[Figure]:
    """The LRA paper's bubble plot over several tasks: mean accuracy against speed and size, area peak memory."""
    found = []
    for title, unit, cost in COSTS:
        points = []
        for s in series:
            groups = [s.groups[task] for task in tasks]
            costs = [value for group in groups if (value := cost(group))]
            if len(costs) == len(tasks):
                memory = max(group.peak_memory_mib or 0.0 for group in groups)
                # geometric, because speed and size differ by task
                points.append((s, statistics.geometric_mean(costs), s.row.average(tasks) or 0.0, memory))
        found.append(bubble_figure(title, unit, points))
    return [figure for figure in found if figure]


def bubble_figure(title: str, unit: str, points: Sequence[tuple[Series, float, float, float]]) -> Figure | None:
    """Points are (series, x, accuracy, memory in MiB); None for fewer than two."""
    if len(points) < 2:
        return None
    largest = max(memory for *_, memory in points) or 1.0
    bubbles = []
    for s, x, y, memory in points:
        tooltip = f"{s.label}: {percent(y)} %, {short_number(x)} {unit}, {memory:.0f} MiB"
        bubbles.append(Bubble(x, y, memory / largest, s.colour, s.label, tooltip))
    chart = bubble_chart(bubbles, unit, title, y_text=short_percent)
    return Figure(title, "test, percent; area: peak memory", Markup(chart))


def agreement_figure(series: Sequence[Series], found: Agreement) -> Figure | None:
    """Measured against published averages, a dot a model; None for fewer than two."""
    colours = {s.row.model: s for s in reversed(series)}
    dots = []
    for p in found.pairs:
        s = colours[p.model]
        tooltip = f"{s.label}: {percent(p.measured)} % here, {percent(p.published)} % published"
        dots.append(Bubble(p.published, p.measured, 0.0, s.colour, s.label, tooltip))
    if len(dots) < 2:
        return None
    chart = bubble_chart(dots, "published", "Measured against published", y_text=short_percent, x_text=short_percent)
    return Figure("Measured against published", "mean of the six tasks, percent", Markup(chart))


def short_percent(share: float) -> str:
    value = 100 * share
    return f"{value:g}" if abs(value - round(value)) < 1e-6 else f"{value:.1f}"


def train_loss(point: Point) -> float | None:
    return point.train_loss


def curve_figure(
    groups: Sequence[tuple[Series, SeedGroup]],
    title: str,
    unit: str,
    value: Callable[[Point], float | None],
    chance: float | None = None,
) -> Figure | None:
    """Thin lines for seeds and a bold one for their mean; a single seed is bold."""
    lines = []
    for s, group in groups:
        curves = [(r.seed, curve) for r in group.runs if (curve := curve_of(r, value))]
        mean = mean_curve([curve for _, curve in curves])
        for i, (seed, curve) in enumerate(curves):
            label = s.end_label if mean is None and i == 0 else None
            lines.append(Line(curve, s.colour, f"{s.label}, seed {seed}", label, thin=mean is not None))
        if mean is not None:
            lines.append(Line(mean, s.colour, f"{s.label}, mean of {len(curves)} seeds", s.end_label))
    if not lines:
        return None
    level, text = (None, short_number) if chance is None else ((chance, "commonest label"), short_percent)
    chart = line_chart(lines, "training steps", f"{title} over training steps", y_text=text, level=level)
    return Figure(title, unit, Markup(chart))


def curve_of(r: Record, value: Callable[[Point], float | None]) -> list[tuple[float, float]]:
    """(step, value) of a run's curve, thinned to about CURVE_POINTS; the last is kept."""
    curve = [(float(p.step), v) for p in r.curve if (v := value(p)) is not None]
    stride = -(-len(curve) // CURVE_POINTS) or 1
    return curve[:-1:stride] + curve[-1:]


def mean_curve(curves: Sequence[list[tuple[float, float]]]) -> list[tuple[float, float]] | None:
    """The mean of at least two curves at the steps they share; None if there are none."""
    if len(curves) < 2:
        return None
    by_step = [dict(curve) for curve in curves]
    steps = sorted(set.intersection(*(set(values) for values in by_step)))
    return [(step, statistics.fmean(values[step] for values in by_step)) for step in steps] or None


def bench_figures(results: Efficiency) -> Iterator[Figure]:
    """Each quantity measured at two or more lengths or widths, published values dashed."""
    published = {row for row, _ in results.printed}
    first = {"S4": 0, "Transformer": 1}
    rows = sorted(
        dict.fromkeys(row for row, _ in results.measured),
        key=lambda row: (first.get(row, 2), row not in published, row),
    )
    values = [(*key, v.value, v.unit, False) for key, v in results.measured.items()]
    values += [(*key, v.value, v.unit, True) for key, v in results.printed.items()]
    columns = {c.name: c for c in results.columns if c.position is not None}
    charts: dict[tuple[str, str], str] = {}
    for column, unit in ((columns[c], v.unit) for (_, c), v in results.measured.items() if c in columns):
        charts.setdefault((column.quantity, column.axis), unit)
    for (quantity, axis), unit in charts.items():
        lines = []
        for i, name in enumerate(rows):
            for dashed in (False, True):
                points = sorted(
                    (c.position or 0.0, value)
                    for row, column, value, u, is_published in values
                    if (row, u, is_published) == (name, unit, dashed) and (c := columns.get(column))
                    if (c.quantity, c.axis) == (quantity, axis)
                )
                if len(points) > 1 and all(value > 0 for _, value in points):
                    title, colour = name + ", published" * dashed, f"c{i}" if i < COLOURS else "other"
                    label = None if dashed or colour == "other" else name
                    lines.append(Line(points, colour, title, label, dashed=dashed))
        if not all(line.dashed for line in lines):
            axis = axis or "length"
            chart = scaling_chart(lines, axis, f"{quantity} over {axis}")
            yield Figure(quantity, "relative to the Transformer" if unit == "x" else unit, Markup(chart))


def kernel_chart(k: Kernel, colour: str, name: str) -> Markup:
    """Both kernels as areas between lowest and highest value, over the logarithm of the position."""
    largest = max((abs(v) for line in (*k.before, *k.after) for v in line), default=0.0) or 1.0
    centres = [(start + end - 1) / 2 for start, end in zip(k.starts, [*k.starts[1:], k.length], strict=True)]
    height = KERNEL_HEIGHT - KERNEL_BOTTOM

    def x(position: float) -> float:
        return KERNEL_WIDTH * math.log1p(position) / math.log1p(max(1, k.length - 1))

    def y(value: float) -> float:
        return height / 2 * (1 - 0.96 * value / largest)

    def area(lines: list[list[float]], kind: str) -> str:
        lows, highs = (list(zip(centres, line, strict=True)) for line in lines)
        points = " ".join(f"{x(c):.1f},{y(v):.1f}" for c, v in (*highs, *reversed(lows)))
        return f'<polygon class="{kind}" points="{points}"/>'

    ticks = [10**e for e in range(6) if 10**e < k.length * 0.7]
    grid = f'<line class="grid" x1="0" x2="{KERNEL_WIDTH:g}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>' + "".join(
        f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="0" y2="{height:g}"/>'
        f'<text x="{x(t):.1f}" y="{KERNEL_HEIGHT - 3:g}" text-anchor="middle">{t}</text>'
        for t in ticks
    )
    box = f'viewBox="0 0 {KERNEL_WIDTH:g} {KERNEL_HEIGHT:g}" role="img" aria-label="{escape(name)}"'
    after = "c0" if colour == "other" else colour  # grey is the colour of the kernel before training
    return Markup(f"<svg {box}>{grid}{area(k.before, 'before')}{area(k.after, f'after {after}')}</svg>")
