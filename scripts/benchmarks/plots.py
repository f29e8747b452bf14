"""Bar chart of forward and backward times, a group of bars for each size."""

import math
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from lra.io.atomic import write_figure


def grouped(
    rows: list[dict], path: Path, *, group: Callable[[dict], str], name: Callable[[dict], str], title: str
) -> None:
    """Plot every row that has a time; `group` and `name` give its place on the axis and in the legend."""
    groups, names = (list(dict.fromkeys(map(key, rows))) for key in (group, name))
    rows = [row for row in rows if row.get("forward+backward ms")]
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(names)
    for i, label in enumerate(names):
        labelled = [row for row in rows if name(row) == label]
        x = [groups.index(group(row)) + (i - (len(names) - 1) / 2) * width for row in labelled]
        times = [row["forward+backward ms"] for row in labelled]
        bars = axes.bar(x, times, width, label=label)
        axes.bar_label(bars, [f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}" for ms in times], fontsize=8)
    axes.set_yscale("log")
    if rows:
        times = [row["forward+backward ms"] for row in rows]
        # from the power of ten below the shortest bar, with room for the legend above
        axes.set_ylim(10 ** math.floor(math.log10(min(times)) - 0.3), 5 * max(times))
    axes.set_xticks(range(len(groups)), groups)
    axes.set(ylabel="forward + backward, ms", title=title)
    axes.legend(loc="upper left")
    write_figure(figure, path, dpi=120)
