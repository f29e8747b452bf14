"""The page's charts in Vega-Lite: results, learning curves, ranks, benchmarks, convolution kernels.

A chart is drawn twice from the same data: as a static picture (SVG), and as a specification that the page makes
interactive. Colours are CSS variables of style.css, so that a chart follows light and dark mode: --f0, --f1, ... for
families of models. `picked` is a parameter of every chart: the models that the reader has selected, dimming others.
"""

import functools
import json
import math
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import altair as alt
import vl_convert
from markupsafe import Markup

from lra.objectives.objective import Metric, Objective
from lra.records.published import ModelInfo, Published
from lra.records.record import Kernel, Point, Record
from lra.tables.aggregate import Column, Row, SeedGroup
from lra.tables.agreement import Agreement
from lra.tables.comparison import seeds_entry
from lra.tables.efficiency import Efficiency

FAMILIES = ("state space", "convolution", "recurrent", "hybrid", "attention", "efficient attention", "linear", "other")
Drawing = alt.LayerChart | alt.FacetChart
CURVE_POINTS = 60
WIDTH = 560  # of static pictures, in pixels; the page fits interactive charts to its own width
ROW_HEIGHT = 16
BENCH_HEIGHT, NAME_WIDTH, LABEL_HEIGHT = 260, 118, 12
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
STYLE = Path(__file__).with_name("style.css")
CONFIG: dict[str, Any] = {
    "background": None,
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--soft)", "titleColor": "var(--soft)", "gridColor": "var(--edge)", "domain": False,
        "ticks": False, "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal", "labelPadding": 5,
    },
    "header": {"labelColor": "var(--ink)", "labelFontSize": 12, "labelFontWeight": "bold", "title": None},
    "legend": {"labelColor": "var(--ink)", "titleColor": "var(--soft)", "labelFontSize": 12, "title": None},
    "text": {"color": "var(--ink)", "fontSize": 11},
    "rule": {"color": "var(--faint)"},
    "aria": False,
}  # fmt: skip


def shown(metric: Metric, value: float) -> float:
    """The number that a chart shows: percent or the value itself, to five digits."""
    return float(f"{(100 if metric.percent else 1) * value:.5g}")


@dataclass(frozen=True)
class Figure:
    """A chart with its title and note; `picture` is its SVG, `spec` the JSON of its interactive form."""

    title: str
    note: str
    spec: str
    picture: Markup


def colour(legend: Sequence[str] = ()) -> alt.Color:
    """Colour by family; `legend` names the families that a legend shows."""
    scale = alt.Scale(domain=list(FAMILIES), range=[f"var(--f{i})" for i in range(len(FAMILIES))])
    shape = alt.Legend(
        orient="bottom", direction="horizontal", values=list(legend), symbolType="circle", columnPadding=24
    )
    return alt.Color("family:N", scale=scale, legend=shape if legend else None)


PICKED = alt.param(name="picked", value=[])
IS_PICKED = "indexof(picked, datum.model) >= 0"
SHOWN = f"length(picked) == 0 || {IS_PICKED}"


def strong(normal: float = 0.9, faint: float = 0.12) -> Any:
    """Opacity that dims what is not picked."""
    return alt.when(SHOWN).then(alt.value(normal)).otherwise(alt.value(faint))


def figure(title: str, note: str, chart: Callable[[bool], Drawing], *, fits: bool = True) -> Figure:
    """Draw a chart both ways; `chart(False)` has no parameters of the mouse.

    fits  the interactive chart takes the width that there is; a chart of several panels has its own
    """
    spec, picture = chart(True), chart(False)
    if fits:
        spec, picture = spec.properties(width="container"), picture.properties(width=WIDTH)
    return Figure(title, note, json_of(spec), svg(picture))


def json_of(chart: Any) -> str:
    """The specification of a chart; the page adds CONFIG."""
    content = chart.add_params(PICKED).to_dict()
    del content["config"], content["$schema"]
    return as_json(content)


def as_json(content: Any) -> str:
    """JSON that cannot end a script element."""
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def svg(chart: Any) -> Markup:
    """Static SVG for inside the page: coordinates of one decimal, the font is the page's."""
    text = vl_convert.vegalite_to_svg({**chart.add_params(PICKED).to_dict(), "config": CONFIG})
    attributes = "xmlns(?::xlink)?|version|aria-[a-z]+|role|pointer-events|font-family|class"
    text = re.sub(rf' (?:(?:{attributes})="[^"]*"|opacity="1"|stroke-width="1")', "", text)
    text = re.sub(
        r'<path(?: d="(?:M[0-9.,]+h[0-9.]+v[0-9.]+h-?[0-9.]+Z)?"| display="none")+/>', "", text
    )  # empty boxes
    return Markup(re.sub(r'="[^"]*"', lambda value: re.sub(r"\d+\.\d{2,}", one_decimal, value[0]), text))


def one_decimal(number: re.Match) -> str:
    return f"{float(number[0]):.1f}"


def data(rows: Sequence[dict[str, Any]]) -> alt.InlineData:
    return alt.InlineData(list(rows))


def label_of(row: Row) -> str:
    return row.info.title + (" (other data)" if row.data_set else "")


def named(row: Row) -> dict[str, Any]:
    return {"model": row.model, "label": label_of(row), "family": family_of(row)}


def family(info: ModelInfo) -> str:
    return info.family if info.family in FAMILIES else "other"


def family_of(row: Row) -> str:
    return family(row.info)


# results of one task, and of all


def result_of(row: Row, column: Column) -> dict[str, Any] | None:
    """One row of a results chart; a run that stayed at chance is drawn hollow, without one nothing is."""
    group = row.cells[column.task].seeds if column.task in row.cells else None
    value = None if group is None else group.mean_of_ended if group.mean is None else group.mean
    if group is None or value is None:
        return None
    metric = group.objective.metric
    low, high = (min(group.scores), max(group.scores)) if group.scores else (value, value)
    return {
        **named(row), "value": shown(metric, value), "low": shown(metric, low), "high": shown(metric, high),
        "text": str(seeds_entry(group)), "learned": bool(group.learned), "task": column.title,
        "trivial": shown(metric, group.data.trivial),
    }  # fmt: skip


def results_layers(
    order: Sequence[str], *, legend: Sequence[str] = (), mouse: bool = False, metric: str = ""
) -> list[alt.Chart]:
    """Rule at the trivial score, range over seeds, a dot for each model, whose whole row reacts to the mouse."""
    y = alt.Y(
        "label:N", sort=list(order), title=None, axis=alt.Axis(grid=False, labelLimit=140, labelColor="var(--ink)")
    )
    x = alt.X("value:Q", title=None, scale=alt.Scale(zero=False, nice=True, padding=8), axis=alt.Axis(tickCount=4))
    base = alt.Chart().encode(y=y)
    fill = alt.when("datum.learned").then(colour(legend)).otherwise(alt.value("var(--card)"))
    layers = [
        alt.Chart().mark_rule(strokeDash=[3, 3]).encode(x="mean(trivial):Q"),
        base.mark_rule(color="var(--edge)"),
        base.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", title=None), x2="high:Q", color=colour(legend), opacity=strong()
        ),
        base.mark_point(size=52, strokeWidth=1.4).encode(
            x=x, stroke=colour(), fill=fill, opacity=strong(), shape=alt.value("circle")
        ),
    ]
    if mouse:
        tip = [alt.Tooltip("label:N", title="title"), alt.Tooltip("text:N", title=metric)]
        layers.append(base.mark_bar(opacity=0).encode(tooltip=tip))
    return layers


def ranking(rows: Sequence[Row], column: Column) -> Figure | None:
    """The models of one task, best first; None if none has a result."""
    found = [r for row in rows if (r := result_of(row, column))]
    if not found:
        return None
    objective = objective_in(rows, column)
    metric = objective.metric
    found.sort(key=lambda r: (r["value"] * (-1 if metric.higher_is_better else 1), r["label"]))
    order = [r["label"] for r in found]

    def chart(mouse: bool) -> Drawing:
        layers = results_layers(order, mouse=mouse, metric=metric.title)
        return alt.layer(*layers, data=data(found)).properties(height=ROW_HEIGHT * len(found))

    unit = f"{metric.title}, {metric.unit}"
    note = f"test {unit}; line: range over seeds; hollow: not better than {objective.trivial_answer} (dashed)"
    return figure("Models", note, chart)


def overview(rows: Sequence[Row], columns: Sequence[Column], *, legend: bool = False) -> Figure | None:
    """All results at a glance, a panel for each task, best model first; None without results."""
    found = [r for row in rows for column in columns if (r := result_of(row, column))]
    if not found:
        return None
    present = {r["label"]: r["family"] for r in found}
    order = [label_of(row) for row in best_first(rows)]
    names = [family for family in FAMILIES if legend and family in present.values()]

    def chart(mouse: bool) -> Drawing:
        layers = results_layers(order, legend=names, mouse=mouse, metric="score")
        panel = alt.layer(*layers, data=data(found)).properties(width=680 // len(columns), height=15 * len(present))
        panels = alt.Column("task:N", sort=[c.title for c in columns], title=None)
        # room for names in a wider font than the one assumed here
        space = {"left": 20, "top": 5, "right": 5, "bottom": 5}
        return panel.facet(column=panels, spacing=14).resolve_scale(x="independent").properties(padding=space)

    return figure("Results", "test score by task", chart, fits=False)


def best_first(rows: Sequence[Row]) -> list[Row]:
    """Rows by their average; then those without one, by `strength`."""
    averages = {id(row): row.average() for row in rows}

    def key(row: Row) -> tuple[float, float, str]:
        average = averages[id(row)]
        return (1.0 if average is None else -average, -strength(row), label_of(row))

    return sorted(rows, key=key)


def strength(row: Row) -> float:
    """Mean over a row's tasks of the score, rescaled so that the trivial answer's is 0 and perfection 1."""
    shares = []
    for group in (cell.seeds for cell in row.cells.values()):
        perfect, trivial = float(group.objective.metric.higher_is_better), group.data.trivial
        if group.mean_of_tried is not None and perfect != trivial:
            shares.append((group.mean_of_tried - trivial) / (perfect - trivial))
    return statistics.fmean(shares) if shares else -1.0


def objective_in(rows: Sequence[Row], column: Column) -> Objective:
    return next(row.cells[column.task].seeds.objective for row in rows if column.task in row.cells)


def themed(picture: str, theme: str) -> str:
    """A stand-alone SVG with the colours of style.css, "light" or "dark", in place of its variables."""
    blocks = STYLE.read_text(encoding="utf-8").split("@media", 2)[:2]
    values: dict[str, str] = {}
    for block in blocks[: 1 + (theme == "dark")]:
        values |= dict(re.findall(r"(--[\w]+): (#\w+)", block))
    text = re.sub(r"var\((--\w+)\)", lambda name: values[name[1]], picture)
    return text.replace("<svg", f'<svg xmlns="http://www.w3.org/2000/svg" font-family="{FONT}"', 1) + "\n"


# learning curves


def curve_figure(
    groups: Sequence[tuple[Row, SeedGroup]],
    title: str,
    note: str,
    value: Callable[[Point], float | None],
    level: float | None = None,
) -> Figure | None:
    """Thin lines for seeds and a bold one for their mean; a single seed is bold. None without any point."""
    lines = []
    for row, group in groups:
        curves = [(r.seed, curve) for r in group.runs if (curve := curve_of(r, value))]
        mean = mean_curve([curve for _, curve in curves])
        lines += [line_of(row, f"seed {seed}", curve, thin=mean is not None) for seed, curve in curves]
        if mean is not None:
            lines.append(line_of(row, f"mean of {len(curves)} seeds", mean))
    if not lines:
        return None

    def chart(mouse: bool) -> Drawing:
        x = alt.X(
            "x:Q",
            title="training steps",
            axis=alt.Axis(grid=False, format=",d", tickCount=6),
            scale=alt.Scale(nice=False),
        )
        y = alt.Y("y:Q", title=None, scale=alt.Scale(zero=False))
        layers = line_layers(x, y, "training steps", title, mouse)
        if level is not None:
            layers.insert(0, alt.Chart(data([{"level": level}])).mark_rule(strokeDash=[3, 3]).encode(y="level:Q"))
        return alt.layer(*layers, data=data(lines)).properties(height=200)

    return figure(title, note, chart)


def line_of(row: Row, what: str, points: Sequence[tuple[float, float]], *, thin: bool = False) -> dict[str, Any]:
    xs, ys = zip(*points, strict=True)
    name = f"{label_of(row)}, {what}"
    return {**named(row), "line": name, "thin": thin, "x": [round(x) for x in xs], "y": [float(f"{y:.5g}") for y in ys]}


def line_layers(x: alt.X, y: alt.Y, x_title: str, y_title: str, mouse: bool, dashed: bool = False) -> list[alt.Chart]:
    """Lines from columns `x` and `y` of lists; the mouse finds the nearest point and thickens its line."""
    base = alt.Chart().transform_flatten(["x", "y"]).encode(x=x, y=y, color=colour(), detail="line:N")
    width = alt.when("datum.thin").then(alt.value(0.8)).otherwise(alt.value(1.8))
    near = alt.selection_point(
        name="near", on="pointerover", clear="pointerout", nearest=True, fields=["line"], empty=False
    )
    if mouse:
        width = alt.when(near).then(alt.value(4)).when("datum.thin").then(alt.value(0.8)).otherwise(alt.value(1.8))
    dash = {"strokeDash": alt.when("datum.dashed").then(alt.value([5, 4])).otherwise(alt.value([1, 0]))}
    layers = [
        base.mark_line(strokeJoin="round").encode(strokeWidth=width, opacity=strong(0.85), **dash if dashed else {})
    ]
    if dashed:
        layers.append(base.mark_point(filled=True, size=14).encode(opacity=strong(0.85)))
    if mouse:
        # written out, because Vega-Lite 6.4 loses a nominal field in the tooltip of a nearest point
        point = "(datum.datum || datum)"
        values = {"title": "line", y_title: "y", x_title: "x"}
        tip = alt.value(alt.expr("{" + ", ".join(f"{json.dumps(k)}: {point}.{v}" for k, v in values.items()) + "}"))
        shown = alt.when(near).then(alt.value(1)).otherwise(alt.value(0))
        layers.append(base.mark_point(filled=True, size=50).encode(opacity=shown, tooltip=tip).add_params(near))
    return layers


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


def task_curves(groups: Sequence[tuple[Row, SeedGroup]]) -> list[Figure]:
    """Validation metric and training loss of one task over its steps; without those that have no data."""

    def validation(point: Point) -> float | None:
        return None if point.val_score is None else shown(metric, point.val_score)

    metric = groups[0][1].objective.metric
    trivial = shown(metric, groups[0][1].data.trivial)
    found = [
        curve_figure(groups, capitalized(metric.title), f"validation, {metric.unit}", validation, trivial),
        curve_figure(groups, "Loss", "training", train_loss),
    ]
    return [figure for figure in found if figure]


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def train_loss(point: Point) -> float | None:
    return point.train_loss


# agreement with published results


def agreement_figure(rows: Sequence[Row], found: Agreement) -> Figure | None:
    """Ranks of models by published and by measured average, a line for each model; None for fewer than two."""
    if len(found.pairs) < 2:
        return None
    info = {row.model: row for row in reversed(rows)}
    sides = ("published", "here")
    lines = []
    for side, value in zip(sides, ("published", "measured"), strict=True):
        ranked = sorted(found.pairs, key=lambda p: (-getattr(p, value), p.model))
        for rank, p in enumerate(ranked, 1):
            text = f"{100 * p.published:.2f} published, {100 * p.measured:.2f} here"
            lines.append({**named(info[p.model]), "side": side, "rank": rank, "text": text})

    def chart(mouse: bool) -> Drawing:
        axis = alt.Axis(orient="top", labelAngle=0, grid=False, labelFontSize=12)
        x = alt.X("side:N", sort=list(sides), title=None, axis=axis, scale=alt.Scale(type="point", padding=1.3))
        y = alt.Y("rank:Q", axis=None, scale=alt.Scale(reverse=True, domain=[0.5, len(found.pairs) + 0.5], nice=False))
        base = alt.Chart().encode(x=x, y=y, opacity=strong(), color=colour())
        if mouse:
            tip = [alt.Tooltip("label:N", title="title"), alt.Tooltip("text:N", title="average")]
            base = base.encode(tooltip=tip)
        layers = [base.mark_line(strokeWidth=1.8, point=alt.OverlayMarkDef(size=40)).encode(detail="model:N")]
        for side, shift in zip(sides, (-9, 9), strict=True):
            align: Literal["right", "left"] = "right" if shift < 0 else "left"
            names = base.mark_text(align=align, dx=shift, limit=118).encode(
                text="label:N", color=alt.value("var(--ink)")
            )
            layers.append(names.transform_filter(alt.datum.side == side))
        return alt.layer(*layers, data=data(lines)).properties(height=17 * len(found.pairs))

    return figure("Rank by average over the six tasks", "in the papers and here", chart)


# benchmarks


def bench_figures(results: Efficiency, published: Published) -> Iterator[Figure]:
    """Each quantity measured at two or more lengths or widths.

    Published values are of other machines: they are drawn, dashed, only where the quantity is a ratio of two
    measurements on one machine (unit x).
    """
    models = {name: info for info in published.models.values() for name in (info.title, info.row) if name}
    values = [(*key, v.value, v.unit, False) for key, v in results.measured.items()]
    values += [(*key, v.value, v.unit, True) for key, v in results.printed.items() if v.unit == "x"]
    columns = {c.name: c for c in results.columns if c.position is not None}
    charts: dict[tuple[str, str], str] = {}
    for column, unit in ((columns[c], v.unit) for (_, c), v in results.measured.items() if c in columns):
        charts.setdefault((column.quantity, column.axis), unit)
    for (quantity, axis), unit in charts.items():
        lines = []
        for name in dict.fromkeys(row for row, _ in results.measured):
            info = models.get(name) or models.get(name.split(",")[0])
            who = {"model": info.stem if info else name, "label": name, "family": family(info) if info else "other"}
            for dashed in (False, True):
                points = sorted(
                    (c.position or 0.0, value)
                    for row, column, value, u, is_published in values
                    if (row, u, is_published) == (name, unit, dashed) and (c := columns.get(column))
                    if (c.quantity, c.axis) == (quantity, axis)
                )
                if len(points) > 1 and all(value > 0 for _, value in points):
                    xs, ys = zip(*points, strict=True)
                    line = {"line": name + ", published" * dashed, "thin": False, "dashed": dashed}
                    lines.append({**who, **line, "x": xs, "y": [float(f"{y:.4g}") for y in ys]})
        if not all(line["dashed"] for line in lines):
            note = "relative to the Transformer; dashed: published" if unit == "x" else unit * (unit != quantity)
            yield scaling_figure(quantity, note, axis or "length", lines)


def scaling_figure(title: str, note: str, axis: str, lines: Sequence[dict[str, Any]]) -> Figure:
    """Lines over two logarithmic axes, so that a power law is straight; ticks at the points."""
    ticks = sorted({x for line in lines for x in line["x"]})
    values = [y for line in lines for y in line["y"]]
    decades = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    levels = [m * 10.0**e for e in decades for m in ((1, 2, 5) if len(decades) < 4 else (1,))]

    def chart(mouse: bool) -> Drawing:
        shown = alt.Axis(values=ticks, grid=False, format=",d", labelOverlap="greedy")
        room: list[Any] = [6, alt.expr(f"width - {NAME_WIDTH}")]
        x = alt.X("x:Q", title=axis, axis=shown, scale=alt.Scale(type="log", nice=False, range=room))
        y = alt.Y("y:Q", title=None, scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format="~g", values=levels))
        layers = line_layers(x, y, axis, title, mouse, dashed=True)
        names = alt.Chart(data(end_labels(lines, BENCH_HEIGHT))).mark_text(align="left", dx=7, limit=NAME_WIDTH - 8)
        layers.append(names.encode(x=x, y=y, text="label:N", color=colour(), opacity=strong(1)))
        return alt.layer(*layers, data=data(lines)).properties(height=BENCH_HEIGHT)

    return figure(title, note, chart)


def end_labels(lines: Sequence[dict[str, Any]], height: float) -> list[dict[str, Any]]:
    """Names at the ends of as many lines as have room on a logarithmic axis of this height, those of S4 first."""
    logs = [math.log(y) for line in lines for y in line["y"]]
    scale = height / ((max(logs) - min(logs)) or 1.0)
    first = {"s4": 0, "transformer": 1}
    taken: list[tuple[float, float]] = []
    found = []
    for line in sorted(lines, key=lambda line: first.get(line["model"], 2)):
        x, y = line["x"][-1], line["y"][-1]
        at = scale * math.log(y)
        if not line["dashed"] and all(abs(at - other) > LABEL_HEIGHT for end, other in taken if end == x):
            taken.append((x, at))
            found.append({key: line[key] for key in ("model", "label", "family")} | {"x": x, "y": y})
    return found


# convolution kernels


def kernel_figure(row: Row, kernels: Sequence[Kernel]) -> Figure:
    """Kernels as areas between lowest and highest value, over the logarithm of the position, one below the other."""
    names = [f"layer {k.layer + 1}, feature {k.feature}" for k in kernels]
    areas = []
    for i, k in enumerate(kernels):
        largest = max((abs(v) for line in (*k.before, *k.after) for v in line), default=0.0) or 1.0
        centres = [(start + end - 1) / 2 for start, end in zip(k.starts, [*k.starts[1:], k.length], strict=True)]
        for when, (lows, highs) in (("before", k.before), ("after", k.after)):
            # a row's band is one unit high, with its zero in the middle
            low, high = ([round(i - 0.45 * v / largest, 3) for v in line] for line in (lows, highs))
            areas.append({**named(row), "when": when, "name": names[i], "x": centres, "low": low, "high": high})
    last = max(k.length - 1 for k in kernels)

    def chart(mouse: bool) -> Drawing:
        ticks = [10**e for e in range(6) if 10**e <= last]
        x = alt.X("x:Q", title="positions ago", axis=alt.Axis(values=ticks, format="~s"),
                  scale=alt.Scale(type="symlog", domain=[0, last], nice=False))  # fmt: skip
        label = f"{json.dumps(names)}[datum.value]"
        axis = alt.Axis(values=list(range(len(names))), labelExpr=label, labelLimit=130)
        y = alt.Y("low:Q", title=None, axis=axis, scale=alt.Scale(domain=[-0.5, len(names) - 0.5], reverse=True))
        base = alt.Chart().transform_flatten(["x", "low", "high"])
        shape = base.mark_area(line={"strokeWidth": 1}).encode(x=x, y=y, y2="high:Q", detail="name:N")
        before = shape.transform_filter(alt.datum.when == "before").encode(color=alt.value("var(--other)"))
        after = shape.transform_filter(alt.datum.when == "after").encode(color=colour(), opacity=alt.value(0.65))
        return alt.layer(before, after, data=data(areas)).properties(height=70 * len(names))

    return figure("", "", chart)


@functools.cache
def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, without a network."""
    text = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # a script element ends at these letters, even inside a string
    return re.sub(r"</(?=script)", r"<\\/", text, flags=re.I)
