"""Small SVG charts: lines with labels at their ends, and bubbles with labels that never overlap.

Colours are CSS classes (c0, c1, ... and other), so that one drawing serves light and dark. Lengths are in the units of
the view box, WIDTH x HEIGHT.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 400.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 42.0, 8.0, 12.0, 34.0
FONT = 12.0
# of a character, against the font size; a little generous
CHARACTER = 0.62
GAP = 4.0
COLOURS = 7
LONGEST = 24


@dataclass(frozen=True)
class Line:
    """One run or mean: (x, y) points, colour class, what it is, and the label at its end if it has one."""

    points: list[tuple[float, float]]
    colour: str
    title: str
    label: str | None = None
    thin: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Bubble:
    """One model: position, relative area in [0, 1], colour class, label and what a pointer over it says."""

    x: float
    y: float
    area: float
    colour: str
    label: str
    title: str


@dataclass(frozen=True)
class Axis:
    """From data to the view box. `text` says a tick, `marks` where ticks are, if not at round numbers.

    A logarithmic axis needs positive numbers.
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
    """Round numbers between low and high, about so many, a step of 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Of 1, 2, 5 times powers of ten between low and high, at most six; between near ends any round numbers."""
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
    """A label of at most LONGEST characters: a variant's overrides would leave a chart no room."""
    return label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"


def text_width(text: str) -> float:
    return CHARACTER * FONT * len(text)


def frame(x: Axis, y: Axis) -> list[str]:
    """Grid, tick labels and axis names."""
    parts = []
    for value in y.ticks():
        at = y(value)
        parts.append(f'<line class="grid" x1="{x.start:.1f}" x2="{x.stop:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{x.start - 6:.1f}" y="{at + 4:.1f}" text-anchor="end">{y.text(value)}</text>'
        )
    for value in x.ticks():
        at = x(value)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{y.stop:.1f}" y2="{y.start:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{y.start + 14:.1f}" text-anchor="middle">{x.text(value)}</text>'
        )
    middle = (x.start + x.stop) / 2
    parts.append(
        f'<text class="name" x="{middle:.1f}" y="{HEIGHT - 4:.1f}" text-anchor="middle">{escape(x.name)}</text>'
    )
    return parts


def svg(parts: Sequence[str], description: str) -> str:
    inside = "".join(parts)
    box = f"0 0 {WIDTH:g} {HEIGHT:g}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(description)}">{inside}</svg>'


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions as near to those wanted as can be, at least `gap` apart, in [low, high]; the order is kept."""
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
    """Lines over steps, labelled at their ends; `level` is a height worth knowing, (value, its name)."""
    points = [p for line in lines for p in line.points]
    xs, ys = [p[0] for p in points], [p[1] for p in points] + ([level[0]] if level else [])
    margin = 0.06 * (max(ys) - min(ys)) or 0.05
    x = Axis(x_name, min(0.0, *xs), max(xs), LEFT, WIDTH - label_room(lines), text=short_number)
    y = Axis("", min(ys) - margin, max(ys) + margin, HEIGHT - BOTTOM, TOP, text=y_text)
    parts = frame(x, y)
    if level:
        at = y(level[0])
        parts.append(f'<line class="level" x1="{x.start:.1f}" x2="{x.stop:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text class="levelname" x="{x.stop - 3:.1f}" y="{at - 4:.1f}" text-anchor="end">{escape(level[1])}</text>'
        )
    parts += drawn(lines, x, y)
    return svg(parts, description)


def drawn(lines: Sequence[Line], x: Axis, y: Axis) -> list[str]:
    """The lines, and the labels at the ends of those that have one, spread so that none covers another."""
    parts = []
    # grey first, so that colours lie above
    for line in sorted(lines, key=lambda line: (line.colour != "other", not line.thin)):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.points)
        weight = " thin" * line.thin + " dashed" * line.dashed
        title = f"<title>{escape(line.title)}</title>"
        parts.append(f'<polyline class="line {line.colour}{weight}" points="{path}">{title}</polyline>')
    labelled = [line for line in lines if line.label]
    ends = [y(line.points[-1][1]) for line in labelled]
    for line, end, at in zip(labelled, ends, spread(ends, FONT + 2, TOP, HEIGHT - BOTTOM), strict=True):
        tip = x(line.points[-1][0])
        edge = x.stop + 8
        parts.append(f'<path class="leader {line.colour}" d="M{tip:.1f} {end:.1f}L{edge - 2:.1f} {at:.1f}"/>')
        name = escape(clipped(line.label or ""))
        parts.append(f'<text class="label {line.colour}" x="{edge:.1f}" y="{at + 4:.1f}">{name}</text>')
    return parts


def scaling_chart(lines: Sequence[Line], x_name: str, description: str) -> str:
    """Lines over two logarithmic axes, ticks where the points are; a power law is straight."""
    xs, ys = [p[0] for line in lines for p in line.points], [p[1] for line in lines for p in line.points]
    marks = tuple(sorted(set(xs)))
    marks = marks if len(marks) <= 6 else ()
    x = Axis(x_name, min(xs), max(xs), LEFT, WIDTH - label_room(lines), log=True, marks=marks)
    y = Axis("", min(ys) / 1.2, max(ys) * 1.2, HEIGHT - BOTTOM, TOP, log=True, text=short_number)
    return svg([*frame(x, y), *drawn(lines, x, y)], description)


def label_room(lines: Sequence[Line]) -> float:
    """Space at the right for the longest label."""
    widths = [text_width(clipped(line.label)) for line in lines if line.label]
    return RIGHT + (max(widths) + 8 if widths else 0)


def bubble_chart(bubbles: Sequence[Bubble], x_name: str, description: str, *, y_text: Callable[[float], str]) -> str:
    """Bubbles over a logarithmic axis; a label that finds no free place is left out (the table beside has it)."""
    xs, ys = [b.x for b in bubbles], [b.y for b in bubbles]
    margin = 0.12 * (max(ys) - min(ys)) or 0.05
    x = Axis(x_name, min(xs) / 1.35, max(xs) * 1.35, LEFT, WIDTH - RIGHT, log=True, text=short_number)
    y = Axis("", min(ys) - margin, max(ys) + margin, HEIGHT - BOTTOM, TOP, text=y_text)
    parts = frame(x, y)
    widest = 11.0 if len(bubbles) <= 16 else 6.0
    circles = [(x(b.x), y(b.y), 3.0 + widest * math.sqrt(b.area)) for b in bubbles]
    for b, (cx, cy, r) in sorted(zip(bubbles, circles, strict=True), key=lambda pair: -pair[1][2]):
        title, colour = f"<title>{escape(b.title)}</title>", f"bubble {b.colour}"
        parts.append(f'<circle class="{colour}" cx="{cx:.1f}" cy="{cy:.1f}" r="{r:.1f}">{title}</circle>')
    taken: list[tuple[float, float, float, float]] = []
    # coloured models choose their places first, and may lie over a grey bubble
    for i in sorted(range(len(bubbles)), key=lambda i: bubbles[i].colour == "other"):
        grey = bubbles[i].colour == "other"
        obstacles = [c for j, c in enumerate(circles) if j != i and (grey or bubbles[j].colour != "other")]
        box = free_place(circles[i], clipped(bubbles[i].label), obstacles, taken, x, y)
        if box is not None:
            taken.append(box)
            colour, name = f"label {bubbles[i].colour}", escape(clipped(bubbles[i].label))
            parts.append(f'<text class="{colour}" x="{box[0]:.1f}" y="{box[3] - 3:.1f}">{name}</text>')
    return svg(parts, description)


def free_place(
    circle: tuple[float, float, float],
    label: str,
    obstacles: Sequence[tuple[float, float, float]],
    taken: Sequence[tuple[float, float, float, float]],
    x: Axis,
    y: Axis,
) -> tuple[float, float, float, float] | None:
    """A box (left, top, right, bottom) beside a circle that covers no obstacle and touches no taken box."""
    cx, cy, r = circle
    width, height = text_width(label), FONT + 1
    for distance in (2.0, 9.0):
        reach = r + distance
        for left, top in (
            (cx + reach, cy - height / 2),
            (cx - reach - width, cy - height / 2),
            (cx - width / 2, cy - reach - height),
            (cx - width / 2, cy + reach),
            (cx + 0.7 * reach, cy - 0.7 * reach - height),
            (cx + 0.7 * reach, cy + 0.7 * reach),
            (cx - 0.7 * reach - width, cy - 0.7 * reach - height),
            (cx - 0.7 * reach - width, cy + 0.7 * reach),
        ):
            box = (left, top, left + width, top + height)
            inside = x.start <= box[0] and box[2] <= x.stop + RIGHT and y.stop - TOP <= box[1] and box[3] <= y.start
            clear = all(not overlap(box, other) for other in taken)
            if inside and clear and not any(covers(box, other) for other in obstacles):
                return box
    return None


def overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    """Do two boxes touch, or stand nearer side by side than a few units?"""
    return a[0] < b[2] + GAP and b[0] < a[2] + GAP and a[1] < b[3] and b[1] < a[3]


def covers(box: tuple[float, float, float, float], circle: tuple[float, float, float]) -> bool:
    cx, cy, r = circle
    dx, dy = cx - min(max(cx, box[0]), box[2]), cy - min(max(cy, box[1]), box[3])
    return math.hypot(dx, dy) < 0.8 * r
