"""Runs gathered into the cells of a table: one cell is one model (and variant) on one task, on the same data."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from lra.records import significance
from lra.records.published import TASKS
from lra.records.record import Kind, Record

KINDS: tuple[str, ...] = get_args(Kind)
FAILED = ("diverged", "oom")
UNFINISHED = ("running", "interrupted", "crashed")


def learned(record: Record) -> bool:
    """The run ended well, and its test accuracy is no luck (exact binomial test against the commonest label)."""
    if record.status != "ok" or record.test_correct is None or record.n_test is None:
        return False
    return significance.beats_chance(record.test_correct, record.n_test, record.data.chance)


@dataclass(frozen=True)
class SeedGroup:
    """Runs of one model and variant on one task and the same data, in the order of their seeds. Accuracies in [0, 1].

    An unfinished run counts nowhere, and so does one that crashed. A seed that diverged, ran out of memory or stayed at
    chance has failed.
    """

    runs: tuple[Record, ...]

    @property
    def tried(self) -> list[Record]:
        return [r for r in self.runs if r.status not in UNFINISHED]

    @property
    def learned(self) -> list[Record]:
        return [r for r in self.runs if learned(r)]

    @property
    def unfinished(self) -> list[Record]:
        return [r for r in self.runs if r.status in UNFINISHED]

    @property
    def kind(self) -> str:
        return self.runs[0].data.kind

    @property
    def data(self) -> tuple[str, str]:
        """(kind, fingerprint): one cell holds results on equal data only."""
        return self.kind, self.runs[0].data.fingerprint

    @property
    def tested_on(self) -> tuple[str, Any]:
        """(kind, what tells its test examples apart): only results on equal test examples may be compared.

        Of files that are the same everywhere that is their number and the share of the commonest label, so that
        Image's two divisions into train and validation, LRA's and the S4 repository's, compete; of generated data the
        fingerprint.
        """
        data = self.runs[0].data
        fixed = data.kind in ("official", "subset")
        return self.kind, (data.counts.get("test", 0), data.chance) if fixed else data.fingerprint

    @property
    def chance(self) -> float:
        return self.runs[0].data.chance

    @property
    def scores(self) -> list[float]:
        """Test accuracies of the seeds that learned."""
        return [r.test_accuracy for r in self.learned if r.test_accuracy is not None]

    @property
    def mean(self) -> float | None:
        return significance.mean(self.scores) if self.scores else None

    @property
    def deviation(self) -> float | None:
        return significance.deviation(self.scores)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the mean over the seeds that learned; see `statistics.interval`."""
        if not self.scores:
            return None
        first = self.learned[0]
        return significance.interval(self.scores, first.test_correct or 0, first.n_test or 0)

    @property
    def for_average(self) -> float | None:
        """Mean over every seed tried, a failed one counted as chance; None where no seed was tried."""
        if not self.tried:
            return None
        scores = self.scores
        return significance.mean([*scores, *[self.chance] * (len(self.tried) - len(scores))])


def differ(a: SeedGroup, b: SeedGroup) -> bool:
    """Do the two results differ? Welch's t-test over seeds; two proportions where either has a single seed."""
    if len(a.scores) > 1 and len(b.scores) > 1:
        p = significance.welch(a.scores, b.scores)
    else:
        counts = [sum(getattr(r, name) or 0 for r in c.learned) for c in (a, b) for name in ("test_correct", "n_test")]
        p = significance.two_proportions(*counts)
    return p < significance.DIFFERENCE_LEVEL


@dataclass(frozen=True)
class Row:
    """One model and variant over the tasks; a task run on several data sets makes several rows (`part` 0, 1, ...)."""

    model: str
    title: str
    variant: tuple[str, ...]
    part: int
    cells: dict[str, SeedGroup]

    @property
    def runs(self) -> list[Record]:
        return [r for cell in self.cells.values() for r in cell.runs]

    def average(self, tasks: Sequence[str]) -> float | None:
        """Mean over `tasks` of each cell's `for_average`; None if one of them has none."""
        scores = [self.cells[t].for_average if t in self.cells else None for t in tasks]
        present = [s for s in scores if s is not None]
        return significance.mean(present) if len(present) == len(scores) else None


def rows_of(records: Iterable[Record]) -> list[Row]:
    """Records of one scale as rows, by model, variant and part; ValueError if scales are mixed."""
    records = sorted(records, key=lambda r: (r.model, r.variant, r.task, r.seed))
    if len(scales := sorted({r.scale for r in records})) > 1:
        raise ValueError(f"records of scales {', '.join(scales)}: a table has one scale")
    groups: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for r in records:
        groups[r.model, tuple(r.variant)][r.task][r.data.kind, r.data.fingerprint].append(r)
    rows = []
    for (model, variant), tasks in groups.items():
        parts: dict[int, dict[str, SeedGroup]] = defaultdict(dict)
        for task, data_sets in tasks.items():
            # the better data first, then the more runs
            order = sorted(data_sets.items(), key=lambda item: (KINDS.index(item[0][0]), -len(item[1]), item[0][1]))
            for part, (_, runs) in enumerate(order):
                parts[part][task] = SeedGroup(tuple(runs))
        title = next(r.title for r in records if r.model == model)
        rows += [Row(model, title, variant, part, cells) for part, cells in sorted(parts.items())]
    return rows


def columns_of(records: Iterable[Record], *, every: bool = True) -> dict[str, str]:
    """Task names and their titles: the six of LRA (or, unless `every`, those that were run), then any other."""
    run = {r.task for r in records}
    chosen = {t: title for t, title in TASKS.items() if every or t in run or not run}
    return chosen | {t: t for t in sorted(run - set(TASKS))}


def common_data(rows: Sequence[Row], task: str) -> tuple[str, Any] | None:
    """The test examples most cells of a column share; of equals the better kind. Only among those is there a best."""
    counts = Counter(row.cells[task].tested_on for row in rows if task in row.cells)
    return min(counts, key=lambda d: (-counts[d], KINDS.index(d[0]), d[1])) if counts else None


def best_cells(rows: Sequence[Row], task: str) -> tuple[set[int], set[int]]:
    """(indices of the rows with the best mean in a column, indices of those that do not differ from it)."""
    data = common_data(rows, task)
    scores = {i: mean for i, row in enumerate(rows) if (mean := _mean_on(row, task, data)) is not None}
    rivals = [row for row in rows if task in row.cells and row.cells[task].tested_on == data and row.cells[task].tried]
    if not scores or len(rivals) < 2:
        return set(), set()
    top = max(scores.values())
    best = {i for i, score in scores.items() if score == top}
    champion = rows[min(best)].cells[task]
    return best, {i for i in scores if i not in best and not differ(champion, rows[i].cells[task])}


def _mean_on(row: Row, task: str, data: tuple[str, Any] | None) -> float | None:
    cell = row.cells.get(task)
    return cell.mean if cell is not None and cell.tested_on == data else None
