"""Convolution kernels before and after training, as a page shows them."""

import math
from collections.abc import Sequence
from html import escape

from lra.records.published import Published
from lra.records.record import Kernel
from lra.tables import comparison
from lra.tables.aggregate import Row

MODELS = 2  # of a task, the strongest that have kernels
WIDTH, HEIGHT, BOTTOM = 260.0, 120.0, 16.0


def kernels_section(rows: Sequence[Row], columns: dict[str, str], colours: dict[int, str], published: Published) -> str:
    """A card for each task with models that convolve; nothing where none does."""
    cards = []
    for task, title in columns.items():
        found = [i for i, row in enumerate(rows) if task in row.cells and any(r.kernels for r in row.cells[task].runs)]
        for i in sorted(found, key=lambda i: (colours[i] == "other", colours[i], i))[:MODELS]:
            run = next(r for r in rows[i].cells[task].runs if r.kernels)
            name = comparison.row_label(rows[i], published.model(rows[i].model, rows[i].title))
            figures = "".join(figure(k, colours[i]) for k in run.kernels)
            inside = f"<h3>{escape(name)} on {escape(title)} <small>seed {run.seed}</small></h3>"
            cards.append(f'<div class="card">{inside}{about(run.kernels)}<div class="kernels">{figures}</div></div>')
    if not cards:
        return ""
    return f'<section id="kernels"><h2>Kernels</h2>{"".join(cards)}</section>'


def about(kernels: Sequence[Kernel]) -> str:
    text = (
        "Features of the first and the last layer, from short to long memory, each the one that training changed most"
    )
    if any(k.picture_after for k in kernels):
        text += "; laid out as the picture whose rows make the sequence, before and after training"
    else:
        text += ". Weight of the input so many positions ago: grey before, coloured after training"
    return f'<p class="lead">{text}.</p>'


def figure(k: Kernel, colour: str) -> str:
    name = f"layer {k.layer + 1}, feature {k.feature}"
    if k.picture_before and k.picture_after:
        pictures = "".join(
            f'<img alt="{name}, {when} training" src="data:image/png;base64,{picture}">'
            for when, picture in (("before", k.picture_before), ("after", k.picture_after))
        )
        return f'<figure><figcaption>{name}</figcaption><div class="pair">{pictures}</div></figure>'
    return f"<figure><figcaption>{name}</figcaption>{curves(k, colour, name)}</figure>"


def curves(k: Kernel, colour: str, name: str) -> str:
    """Both kernels as areas between lowest and highest value, over the logarithm of the position."""
    strongest = max((abs(v) for line in (*k.before, *k.after) for v in line), default=0.0) or 1.0
    ends = [*k.starts[1:], k.length]
    centres = [(start + end - 1) / 2 for start, end in zip(k.starts, ends, strict=True)]

    def x(position: float) -> float:
        return WIDTH * math.log1p(position) / math.log1p(max(1, k.length - 1))

    def y(value: float) -> float:
        return (HEIGHT - BOTTOM) / 2 * (1 - 0.96 * value / strongest)

    def area(lines: list[list[float]], kind: str) -> str:
        lows, highs = lines
        there = [f"{x(c):.1f},{y(v):.1f}" for c, v in zip(centres, highs, strict=True)]
        back = [f"{x(c):.1f},{y(v):.1f}" for c, v in zip(reversed(centres), reversed(lows), strict=True)]
        return f'<polygon class="{kind}" points="{" ".join(there + back)}"/>'

    zero = f'<line class="grid" x1="0" x2="{WIDTH:g}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>'
    ticks = [10**e for e in range(6) if 10**e < k.length * 0.7]
    marks = "".join(
        f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="0" y2="{HEIGHT - BOTTOM:g}"/>'
        f'<text x="{x(t):.1f}" y="{HEIGHT - 3:g}" text-anchor="middle">{t}</text>'
        for t in ticks
    )
    inside = zero + marks + area(k.before, "before") + area(k.after, f"after {colour}")
    return f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(name)}">{inside}</svg>'
