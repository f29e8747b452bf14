"""Small SVG charts: lines labelled at their ends, and bubbles whose labels never overlap.

Colours are CSS classes (c0, c1, ... and other), so that a chart works in light and dark mode. Lengths are in units of
the view box, WIDTH x HEIGHT.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 400.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 42.0, 8.0, 12.0, 34.0
FONT = 12.0
CHARACTER = 0.62  # width of a character, relative to the font size; a little generous
GAP = 4.0  # between labels side by side
COLOURS = 7
LONGEST_LABEL = 24
DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (0.7, -0.7), (0.7, 0.7), (-0.7, -0.7), (-0.7, 0.7))
Box = tuple[float, float, float, float]  # left, top, right, bottom
Circle = tuple[float, float, float]  # centre x, y, radius


@dataclass(frozen=True)
class Line:
    """One run or mean: (x, y) points, colour class, tooltip, and the label at its end if it has one."""

    points: list[tuple[float, float]]
    colour: str
    title: str
    label: str | None = None
    thin: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Bubble:
    """One model: position, relative area in [0, 1], colour class, label and tooltip."""

    x: float
    y: float
    area: float
    colour: str
    label: str
    title: str


@dataclass(frozen=True)
class Axis:
    """Maps data to the view box; a logarithmic axis needs positive numbers.

    marks  positions of ticks, if not at round numbers
    text   formats a tick
    """

    name: str
    low: float
    high: float
    start: float
    stop: float
    log: bool = False
    marks: tuple[float, ...] = ()
    text: Callable[[float], str] = field(default=lambda v: f"{v:g}")

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[float]:
        if self.marks:
            return list(self.marks)
        return log_ticks(self.low, self.high) if self.log else nice_ticks(self.low, self.high)


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """About so many round numbers between low and high, spaced by 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """At most six of 1, 2, 5 times powers of ten between low and high; any round numbers if the range is short."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**e for e in decades for m in multiples if low <= m * 10.0**e <= high]
        if 2 <= len(ticks) <= 6:
            return ticks
    if len(ticks) > 1:
        return ticks[:: math.ceil(len(ticks) / 6)]
    ticks = [tick for tick in nice_ticks(low, high, 3) if low <= tick <= high]
    return ticks if len(ticks) > 1 else [low, high]


def short_number(value: float) -> str:
    """1500 as 1.5k, 2000000 as 2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def clipped(label: str) -> str:
    """The label, cut to LONGEST_LABEL: a variant's overrides would leave a chart no room."""
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def text_width(text: str) -> float:
    return CHARACTER * FONT * len(text)


def line(kind: str, x: tuple[float, float], y: tuple[float, float]) -> str:
    return f'<line class="{kind}" x1="{x[0]:.1f}" x2="{x[1]:.1f}" y1="{y[0]:.1f}" y2="{y[1]:.1f}"/>'


def text(kind: str, x: float, y: float, content: str, anchor: str = "") -> str:
    anchor = anchor and f' text-anchor="{anchor}"'
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{anchor}>{escape(content)}</text>'


def frame(x: Axis, y: Axis) -> list[str]:
    """Grid, tick labels and the name of the x axis."""
    parts = []
    for value in y.ticks():
        parts.append(line("grid", (x.start, x.stop), (y(value), y(value))))
        parts.append(text("tick", x.start - 6, y(value) + 4, y.text(value), "end"))
    for value in x.ticks():
        parts.append(line("grid", (x(value), x(value)), (y.stop, y.start)))
        parts.append(text("tick", x(value), y.start + 14, x.text(value), "middle"))
    return [*parts, text("name", (x.start + x.stop) / 2, HEIGHT - 4, x.name, "middle")]


def svg(parts: Sequence[str], description: str) -> str:
    box = f"0 0 {WIDTH:g} {HEIGHT:g}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(description)}">{"".join(parts)}</svg>'


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions close to those wanted, at least `gap` apart, in [low, high] and in the same order."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    placed = [0.0] * len(wanted)
    floor = low
    for i in order:
        placed[i] = floor = max(wanted[i], floor)
        floor += gap
    ceiling = high
    for i in reversed(order):
        placed[i] = ceiling = min(placed[i], ceiling)
        ceiling -= gap
    return placed


def line_chart(
    lines: Sequence[Line],
    x_name: str,
    description: str,
    *,
    y_text: Callable[[float], str],
    level: tuple[float, str] | None = None,
) -> str:
    """Lines over steps, labelled at their ends; `level` draws a horizontal line: (value, its name)."""
    points = [p for one in lines for p in one.points]
    xs, ys = [p[0] for p in points], [p[1] for p in points] + ([level[0]] if level else [])
    margin = 0.06 * (max(ys) - min(ys)) or 0.05
    x = Axis(x_name, min(0.0, *xs), max(xs), LEFT, WIDTH - label_room(lines), text=short_number)
    y = Axis("", min(ys) - margin, max(ys) + margin, HEIGHT - BOTTOM, TOP, text=y_text)
    parts = frame(x, y)
    if level:
        at = y(level[0])
        parts += [line("level", (x.start, x.stop), (at, at)), text("levelname", x.stop - 3, at - 4, level[1], "end")]
    return svg([*parts, *drawn(lines, x, y)], description)


def drawn(lines: Sequence[Line], x: Axis, y: Axis) -> list[str]:
    """The lines, and their labels spread so that none covers another."""
    parts = []
    # grey first, below the colours
    for one in sorted(lines, key=lambda line: (line.colour != "other", not line.thin)):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in one.points)
        kind = f"line {one.colour}" + " thin" * one.thin + " dashed" * one.dashed
        parts.append(f'<polyline class="{kind}" points="{path}"><title>{escape(one.title)}</title></polyline>')
    labelled = [line for line in lines if line.label]
    ends = [y(line.points[-1][1]) for line in labelled]
    edge = x.stop + 8
    for one, end, at in zip(labelled, ends, spread(ends, FONT + 2, TOP, HEIGHT - BOTTOM), strict=True):
        tip = x(one.points[-1][0])
        parts.append(f'<path class="leader {one.colour}" d="M{tip:.1f} {end:.1f}L{edge - 2:.1f} {at:.1f}"/>')
        parts.append(text(f"label {one.colour}", edge, at + 4, clipped(one.label or "")))
    return parts


def scaling_chart(lines: Sequence[Line], x_name: str, description: str) -> str:
    """Lines over two logarithmic axes, so that a power law is straight; ticks at the points."""
    xs, ys = [p[0] for line in lines for p in line.points], [p[1] for line in lines for p in line.points]
    marks = tuple(sorted(set(xs)))
    marks = marks if len(marks) <= 6 else ()
    x = Axis(x_name, min(xs), max(xs), LEFT, WIDTH - label_room(lines), log=True, marks=marks)
    y = Axis("", min(ys) / 1.2, max(ys) * 1.2, HEIGHT - BOTTOM, TOP, log=True, text=short_number)
    return svg([*frame(x, y), *drawn(lines, x, y)], description)


def label_room(lines: Sequence[Line]) -> float:
    """Space on the right for the longest label."""
    widths = [text_width(clipped(line.label)) for line in lines if line.label]
    return RIGHT + (max(widths) + 8 if widths else 0)


def bubble_chart(
    bubbles: Sequence[Bubble],
    x_name: str,
    description: str,
    *,
    y_text: Callable[[float], str],
    x_text: Callable[[float], str] | None = None,
) -> str:
    """Bubbles over a logarithmic axis, or a linear one of numbers shown by `x_text`.

    A label without free space is omitted; the table next to the chart has the value.
    """
    xs, ys = [b.x for b in bubbles], [b.y for b in bubbles]
    margin = 0.12 * (max(ys) - min(ys)) or 0.05
    if x_text is None:
        x = Axis(x_name, min(xs) / 1.35, max(xs) * 1.35, LEFT, WIDTH - RIGHT, log=True, text=short_number)
    else:
        edge = 0.12 * (max(xs) - min(xs)) or 0.05
        x = Axis(x_name, min(xs) - edge, max(xs) + edge, LEFT, WIDTH - RIGHT, text=x_text)
    y = Axis("", min(ys) - margin, max(ys) + margin, HEIGHT - BOTTOM, TOP, text=y_text)
    parts = frame(x, y)
    widest = 11.0 if len(bubbles) <= 16 else 6.0
    circles = [(x(b.x), y(b.y), 3.0 + widest * math.sqrt(b.area)) for b in bubbles]
    for b, (cx, cy, r) in sorted(zip(bubbles, circles, strict=True), key=lambda pair: -pair[1][2]):
        circle = f'<circle class="bubble {b.colour}" cx="{cx:.1f}" cy="{cy:.1f}" r="{r:.1f}">'
        parts.append(f"{circle}<title>{escape(b.title)}</title></circle>")
    taken: list[Box] = []
    # coloured models are labelled first, and their labels may cover grey bubbles
    for i in sorted(range(len(bubbles)), key=lambda i: bubbles[i].colour == "other"):
        colour, label = bubbles[i].colour, clipped(bubbles[i].label)
        obstacles = [c for j, c in enumerate(circles) if j != i and (colour == "other" or bubbles[j].colour != "other")]
        if box := free_box(circles[i], label, obstacles, taken, x, y):
            taken.append(box)
            parts.append(text(f"label {colour}", box[0], box[3] - 3, label))
    return svg(parts, description)


def free_box(
    circle: Circle, label: str, obstacles: Sequence[Circle], taken: Sequence[Box], x: Axis, y: Axis
) -> Box | None:
    """A box for the label next to a circle that covers no obstacle and touches no taken box."""
    cx, cy, r = circle
    width, height = text_width(label), FONT + 1
    for reach in (r + 2.0, r + 9.0):
        for dx, dy in DIRECTIONS:
            left = cx + dx * reach + (width / 2) * ((dx > 0) - (dx < 0) - 1)
            top = cy + dy * reach + (height / 2) * ((dy > 0) - (dy < 0) - 1)
            box = (left, top, left + width, top + height)
            inside = x.start <= box[0] and box[2] <= x.stop + RIGHT and y.stop - TOP <= box[1] and box[3] <= y.start
            if inside and not any(overlap(box, b) for b in taken) and not any(covers(box, c) for c in obstacles):
                return box
    return None


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes touch, or are closer than GAP side by side."""
    return a[0] < b[2] + GAP and b[0] < a[2] + GAP and a[1] < b[3] and b[1] < a[3]


def covers(box: Box, circle: Circle) -> bool:
    cx, cy, r = circle
    dx, dy = cx - min(max(cx, box[0]), box[2]), cy - min(max(cy, box[1]), box[3])
    return math.hypot(dx, dy) < 0.8 * r
