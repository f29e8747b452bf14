"""Times of several implementations side by side, a group of bars for each size."""

import math
from collections.abc import Callable
from pathlib import Path

from lra.io.atomic import write_figure


def grouped(
    rows: list[dict], path: Path, *, group: Callable[[dict], str], name: Callable[[dict], str], title: str
) -> None:
    """Forward and backward time of every row that has one; `group` and `name` say where a row stands."""
    from matplotlib.figure import Figure

    groups, names = (list(dict.fromkeys(map(of, rows))) for of in (group, name))
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(names)
    times = [row["forward+backward ms"] for row in rows if row.get("forward+backward ms")]
    for place, one in enumerate(names):
        ran = [row for row in rows if name(row) == one and row.get("forward+backward ms")]
        at = [groups.index(group(row)) + (place - (len(names) - 1) / 2) * width for row in ran]
        bars = axes.bar(at, [row["forward+backward ms"] for row in ran], width, label=one)
        axes.bar_label(bars, [f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}" for ms in bars.datavalues], fontsize=8)
    axes.set_yscale("log")
    if times:
        # from a whole power of ten below the least, for an axis cut at a bar makes nothing of it; above, the legend
        axes.set_ylim(10 ** math.floor(math.log10(min(times)) - 0.3), 5 * max(times))
    axes.set_xticks(range(len(groups)), groups)
    axes.set(ylabel="forward + backward, ms", title=title)
    axes.legend(loc="upper left")
    write_figure(figure, path, dpi=120)
