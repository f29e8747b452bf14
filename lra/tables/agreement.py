"""How far a scale can be trusted: agreement of its measured ranking with the published one.

Computed from finished records after the fact; no setting is chosen by it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from lra.records.published import CHANCE, TASKS, Published
from lra.records.record import Record
from lra.tables.aggregate import Row, SeedGroup, aggregate
from lra.tables.formats import Entry, Table

RESAMPLES = 1000
FEWEST = 4  # models, below which a rank correlation says nothing
AVERAGE = "average"
# family of results/published/models.csv -> group
GROUPS = {"attention": "attention", "efficient attention": "attention"}
GROUPS |= dict.fromkeys(("state space", "convolution", "hybrid", "recurrent"), "state space, convolution, recurrence")


@dataclass(frozen=True)
class Pair:
    """One model: measured and published accuracy in [0, 1], failures as chance, and whether it learned."""

    model: str
    group: str
    measured: float
    published: float
    learned_here: bool
    learned_there: bool


@dataclass(frozen=True)
class Agreement:
    """Agreement of one scale with published results on one task, over the models that have both.

    spearman, interval  rank correlation and its 95 % percentile interval over models drawn with replacement; None
                        below FEWEST models or without any spread
    """

    scale: str
    task: str
    group: str
    pairs: tuple[Pair, ...]
    spearman: float | None
    interval: tuple[float, float] | None

    def count(self, *, here: bool, there: bool) -> int:
        """How many models learned (or not) here and in the papers."""
        return sum((p.learned_here, p.learned_there) == (here, there) for p in self.pairs)


@dataclass(frozen=True)
class SeedSwaps:
    """How often two models change places from one seed to another, of all comparisons of two models and two seeds."""

    task: str
    swapped: int
    compared: int


def pairs(rows: Sequence[Row], published: Published, task: str) -> Iterator[Pair]:
    """Models with a measured and a published value of a task, or of the average over all six."""
    for row in rows:
        paper = published.row_of(row.model)
        if paper is None:
            continue
        group = GROUPS.get(row.info.family, row.info.family)
        if task == AVERAGE:
            measured, printed = row.average(), paper.six_task_average
            if measured is not None and printed is not None:
                yield Pair(row.model, group, measured, printed / 100, True, True)
        elif task in paper.scores and task in row.cells:
            seeds, score = row.cells[task].seeds, paper.scores[task]
            if seeds.mean_of_tried is not None:
                there = CHANCE[task] if score is None else score
                yield Pair(row.model, group, seeds.mean_of_tried, there / 100, bool(seeds.scores), score is not None)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rank correlation along the last axis; NaN where all values are equal."""
    from scipy.stats import rankdata

    a, b = (r - r.mean(-1, keepdims=True) for r in (rankdata(x, axis=-1), rankdata(y, axis=-1)))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))


def agreement(scale: str, task: str, group: str, found: Sequence[Pair]) -> Agreement:
    rho, interval = None, None
    if len(found) >= FEWEST:
        x, y = (np.array([getattr(p, name) for p in found]) for name in ("measured", "published"))
        value = float(spearman(x, y))
        if not np.isnan(value):
            drawn = np.random.default_rng(0).integers(len(x), size=(RESAMPLES, len(x)))
            low, high = np.nanpercentile(spearman(x[drawn], y[drawn]), [2.5, 97.5])
            rho, interval = value, (float(low), float(high))
    return Agreement(scale, task, group, tuple(found), rho, interval)


def agreements(records: Sequence[Record], published: Published, scale: str) -> list[Agreement]:
    """All models together, then each group of families, over every task and the average; unchanged recipes only."""
    rows = aggregate(records, published, scale, variants=False).rows
    found = {task: list(pairs(rows, published, task)) for task in (*TASKS, AVERAGE)}
    groups = ["all", *dict.fromkeys(GROUPS.values())]
    return [
        agreement(scale, task, group, [p for p in ps if group in ("all", p.group)])
        for group in groups
        for task, ps in found.items()
    ]


def seed_swaps(records: Sequence[Record], published: Published, scale: str) -> list[SeedSwaps]:
    """Per task, over models that ran with several seeds."""
    rows = aggregate(records, published, scale, variants=False).rows
    found = []
    for task in TASKS:
        groups = [row.cells[task].seeds for row in rows if task in row.cells]
        by_seed = [scores for group in groups if len(scores := scores_by_seed(group)) > 1]
        swapped = compared = 0
        for a, b in combinations(by_seed, 2):
            for s, t in combinations(sorted(a.keys() & b.keys()), 2):
                compared += 1
                swapped += (a[s] - b[s]) * (a[t] - b[t]) < 0
        found.append(SeedSwaps(task, swapped, compared))
    return found


def scores_by_seed(group: SeedGroup) -> dict[int, float]:
    return {r.seed: r.test_score if r.test_score is not None else r.data.trivial for r in group.tried}


def agreement_table(records: Sequence[Record], published: Published, scales: Sequence[str]) -> Table:
    """How far each scale can be trusted, a block of rows a scale."""
    body: list[tuple[Entry, ...]] = []
    for scale in scales:
        found = agreements(records, published, scale)
        if not any(a.pairs for a in found):
            continue
        for group in dict.fromkeys(a.group for a in found):
            line = [a for a in found if a.group == group]
            body.append((Entry(f"{scale}: rank correlation, {group}"), *(rank_entry(a) for a in line)))
        line = [a for a in found if a.group == "all"]
        for label, here, there in (
            ("learned here and in the papers", True, True),
            ("learned in the papers only", False, True),
            ("learned here only", True, False),
        ):
            counts = [Entry(str(a.count(here=here, there=there))) for a in line if a.task != AVERAGE]
            body.append((Entry(f"{scale}: {label}"), *counts, Entry("")))
        swaps = [
            Entry(f"{s.swapped} of {s.compared}" if s.compared else "") for s in seed_swaps(records, published, scale)
        ]
        body.append((Entry(f"{scale}: order of two models reversed by the seed"), *swaps, Entry("")))
    notes = (
        "Rank correlation: Spearman's, between measured and published accuracy of the same models, failures counted as "
        "chance; its 95 % interval by drawing models with replacement; the number of models",
        "Computed from finished runs; settings are chosen by validation accuracy alone",
    )
    title = "How far a scale can be trusted: its ranking of models against the published one"
    return Table("agreement", title, ("", *TASKS.values(), "Avg"), tuple(body), notes)


def rank_entry(a: Agreement) -> Entry:
    if a.spearman is None or a.interval is None:
        return Entry("—", f"({len(a.pairs)})")
    low, high = a.interval
    return Entry(f"{a.spearman:.2f}", f"[{low:.2f}, {high:.2f}] ({len(a.pairs)})")
