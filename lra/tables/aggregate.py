"""The typed aggregate of one scale: seeds grouped into cells, rows and columns, next to the published numbers.

`aggregate` computes it once from the records; Markdown, LaTeX, CSV, the terminal, the page and its charts read it.
Scales, kinds of data and variants are never mixed in a cell, and a missing result stays a hole.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

from lra.objectives import significance
from lra.objectives.objective import Objective, objective_of
from lra.records.code import code_fingerprint
from lra.records.published import TASKS, ModelInfo, Published, PublishedRow
from lra.records.record import Data, Kind, Record

KINDS: tuple[str, ...] = get_args(Kind)
OTHER_TASKS = ("smnist", "pmnist", "scifar", "sc10", "sc35")  # in tables of their own
UNFINISHED = ("running", "interrupted", "crashed")

Outcome = Literal["learned", "chance", "diverged", "oom", "unfinished"]
# identifies the test examples that results must share to be compared: kind of data, and fingerprint or size
TestSet = tuple[str, Any]


def learned(record: Record) -> bool:
    """Whether the run ended well and its test score beats the trivial answer's (the objective's test)."""
    if record.status != "ok" or record.test_totals is None:
        return False
    return objective_of(record.objective).beats_trivial(record.test_totals, record.data.trivial)


@dataclass(frozen=True)
class SeedGroup:
    """Runs of one model and variant on one task and the same data, in the order of their seeds; accuracies in [0, 1].

    Unfinished and crashed runs count nowhere. A seed that diverged, ran out of memory or stayed at chance has failed.
    """

    runs: tuple[Record, ...]

    @cached_property
    def tried(self) -> list[Record]:
        return [r for r in self.runs if r.status not in UNFINISHED]

    @cached_property
    def learned(self) -> list[Record]:
        return [r for r in self.runs if learned(r)]

    @cached_property
    def scored(self) -> list[Record]:
        return self.learned if self.objective.hides_failures else [r for r in self.runs if r.status == "ok"]

    @cached_property
    def unfinished(self) -> list[Record]:
        return [r for r in self.runs if r.status in UNFINISHED]

    @cached_property
    def outcome(self) -> Outcome:
        """learned if one seed did, diverged or oom if every seed tried ended so, else chance."""
        if not self.tried:
            return "unfinished"
        if self.learned:
            return "learned"
        statuses = {r.status for r in self.tried}
        return "diverged" if statuses == {"diverged"} else "oom" if statuses == {"oom"} else "chance"

    @property
    def data(self) -> Data:
        return self.runs[0].data

    @property
    def objective(self) -> Objective:
        return objective_of(self.runs[0].objective)

    @property
    def untuned(self) -> bool:
        return any(r.recipe is None for r in self.runs)

    @property
    def chosen_on_test(self) -> bool:
        return any(r.selection.on_test for r in self.runs)

    @property
    def code_changed(self) -> bool:
        """Whether the source of model or task now differs from that of a run; older records do not state theirs."""
        codes = {(r.code.model, code_fingerprint(r.config).model) for r in self.runs if r.code is not None}
        return any(then != now for then, now in codes)

    @property
    def test_set(self) -> TestSet:
        """Identifies the test examples: by fingerprint for generated data, else by their number and chance.

        So Image's two divisions into train and validation, LRA's and the S4 repository's, compete.
        """
        fixed = self.data.kind in ("official", "subset")
        same = (self.data.counts.get("test", 0), self.data.trivial) if fixed else self.data.fingerprint
        return self.data.kind, same

    @cached_property
    def scores(self) -> list[float]:
        """Test scores of the seeds that learned; of all that ended well where the objective hides no failures."""
        return [r.test_score for r in self.scored if r.test_score is not None]

    @cached_property
    def mean(self) -> float | None:
        return mean_of(self.scores)

    @cached_property
    def std(self) -> float | None:
        return significance.deviation(self.scores)

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the mean over the seeds, or over examples where one has a score."""
        if len(self.scores) > 1:
            return significance.interval(self.scores)
        totals = [r.test_totals for r in self.scored if r.test_totals is not None]
        return self.objective.interval(totals[0]) if totals else None

    @cached_property
    def mean_of_tried(self) -> float | None:
        """Mean over every seed tried, a failed one counted as the trivial score; None if no seed was tried."""
        return mean_of([*self.scores, *[self.data.trivial] * (len(self.tried) - len(self.scores))])

    @cached_property
    def mean_of_ended(self) -> float | None:
        """Mean test score of all runs that ended well, whether or not they learned; for charts."""
        return mean_of([r.test_score for r in self.runs if r.status == "ok" and r.test_score is not None])

    @property
    def steps_per_second(self) -> float | None:
        """Median over the runs."""
        values = sorted(r.steps_per_second for r in self.runs if r.steps_per_second)
        return values[len(values) // 2] if values else None

    @property
    def parameters(self) -> float | None:
        return self.runs[0].parameters or None

    @property
    def peak_memory_mib(self) -> float | None:
        return max((r.peak_memory_mib for r in self.runs if r.peak_memory_mib), default=None)

    def difference(self, published: float | None) -> float | None:
        """Measured minus published, in points; only at scale paper and on a whole data set."""
        comparable = self.runs[0].scale == "paper" and self.data.kind in ("official", "generated")
        return 100 * self.mean - published if comparable and self.mean is not None and published is not None else None


def mean_of(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def differ(a: SeedGroup, b: SeedGroup) -> bool:
    """Whether two results differ: Welch's t-test over seeds, or the objective's over examples for single seeds."""
    if len(a.scores) > 1 and len(b.scores) > 1:
        p = significance.welch(a.scores, b.scores)
    else:
        p = a.objective.p_equal(*(added_totals(g.scored) for g in (a, b)))
    return p < significance.DIFFERENCE_LEVEL


def added_totals(records: Sequence[Record]) -> dict[str, float]:
    """The totals of several tests as of one."""
    added: Counter[str] = Counter()
    for record in records:
        added.update(record.test_totals or {})
    return dict(added)


@dataclass(frozen=True)
class Cell:
    """A seed group in its column.

    comparable  the settings of the scale, unchanged, and the test examples that most of the column shares
    best        has the best mean among those; like_best: does not differ from it significantly
    difference  measured - published, in points; None where they cannot be compared
    """

    seeds: SeedGroup
    comparable: bool
    best: bool
    like_best: bool
    difference: float | None


@dataclass(frozen=True)
class Column:
    """A task. trivial: score of the best answer that ignores the input; test_sets: number of different ones."""

    task: str
    title: str
    trivial: float | None
    test_sets: int


@dataclass(frozen=True)
class Row:
    """One model and variant over the tasks; a task run on several data sets makes several rows (data_set 0, 1, ...)."""

    info: ModelInfo
    title: str
    variant: tuple[str, ...]
    data_set: int
    cells: dict[str, Cell]

    @property
    def model(self) -> str:
        return self.info.stem

    @property
    def label(self) -> str:
        variant = f" [{' '.join(self.variant)}]" if self.variant else ""
        return self.info.title + variant + (" (other data)" if self.data_set else "")

    @property
    def runs(self) -> list[Record]:
        return [r for cell in self.cells.values() for r in cell.seeds.runs]

    @property
    def ended_well(self) -> int:
        return sum(r.status == "ok" for r in self.runs)

    def average(self, tasks: Iterable[str] = TASKS) -> float | None:
        """Mean of the tasks over every seed tried; None if one of them has none."""
        scores = [self.cells[t].seeds.mean_of_tried if t in self.cells else None for t in tasks]
        present = [s for s in scores if s is not None]
        return mean_of(present) if len(present) == len(scores) else None


@dataclass(frozen=True)
class Model:
    """A model: its measured rows, and its published row if it has one."""

    info: ModelInfo
    published: PublishedRow | None
    rows: tuple[Row, ...]

    @property
    def main_rows(self) -> list[Row]:
        return [row for row in self.rows if not row.variant]

    @property
    def variants(self) -> list[Row]:
        return [row for row in self.rows if row.variant]


@dataclass(frozen=True)
class Aggregate:
    """Everything measured at one scale, and everything published. Models and columns are in the order of the tables."""

    scale: str
    columns: tuple[Column, ...]
    models: tuple[Model, ...]

    @cached_property
    def rows(self) -> list[Row]:
        return [row for model in self.models for row in model.rows]

    @cached_property
    def main_rows(self) -> list[Row]:
        """Rows with the settings of the scale, unchanged."""
        return [row for model in self.models for row in model.main_rows]

    @property
    def runs(self) -> list[Record]:
        return [r for row in self.rows for r in row.runs]

    @property
    def measured_columns(self) -> tuple[Column, ...]:
        """The columns with runs; all of them if there is no run at all."""
        ran = {task for row in self.rows for task in row.cells}
        return tuple(c for c in self.columns if c.task in ran) or self.columns


class RowKey(NamedTuple):
    model: str
    variant: tuple[str, ...]
    data_set: int


def aggregate(records: Iterable[Record], published: Published, scale: str, *, variants: bool = True) -> Aggregate:
    """Aggregate the records of one scale; without `variants` only recipes as they are, on a task's best data set."""
    groups = seed_groups(r for r in records if r.scale == scale and is_of_lra(r))
    if not variants:
        groups = {key: tasks for key, tasks in groups.items() if not key.variant and not key.data_set}
    columns = []
    cells: dict[RowKey, dict[str, Cell]] = defaultdict(dict)
    others = sorted({task for tasks in groups.values() for task in tasks} - set(TASKS))
    for task, title in (TASKS | {t: t for t in others}).items():
        column = {key: tasks[task] for key, tasks in groups.items() if task in tasks}
        counts = Counter(group.test_set for key, group in column.items() if not key.variant)
        # of equally frequent test sets the better kind of data
        common = min(counts, key=lambda d: (-counts[d], KINDS.index(d[0]), d[1])) if counts else None
        rivals = {key: group for key, group in column.items() if group.test_set == common and not key.variant}
        columns.append(Column(task, title, next((g.data.trivial for g in rivals.values()), None), len(counts)))
        best, like_best = best_of(rivals)
        for key, group in column.items():
            paper = published.row_of(key.model)
            difference = group.difference(paper.scores.get(task)) if paper else None
            cells[key][task] = Cell(group, key in rivals, key in best, key in like_best, difference)
    rows: dict[str, list[Row]] = defaultdict(list)
    for key in groups:
        title = next(iter(cells[key].values())).seeds.runs[0].title
        info = published.model(key.model, title)
        rows[key.model].append(Row(info, title, key.variant, key.data_set, cells[key]))
    models = []
    for stem in dict.fromkeys([*published.models, *sorted(rows)]):
        info = rows[stem][0].info if stem in rows else published.model(stem)
        models.append(Model(info, published.row_of(stem), tuple(rows.get(stem, ()))))
    return Aggregate(scale, tuple(columns), tuple(models))


def is_of_lra(record: Record) -> bool:
    """Whether a record belongs to the tables of LRA: its tasks and classifications that no other table has."""
    return record.objective == "classification" and record.task.partition("-")[0] not in OTHER_TASKS


def seed_groups(records: Iterable[Record]) -> dict[RowKey, dict[str, SeedGroup]]:
    """Row -> task -> seed group, sorted by model, variant and task; of a task's data sets the better comes first."""
    runs: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for r in sorted(records, key=lambda r: (r.model, r.variant, r.task, r.seed)):
        runs[r.model, tuple(r.variant)][r.task][r.data.kind, r.data.fingerprint].append(r)
    groups: dict[RowKey, dict[str, SeedGroup]] = {}
    for (model, variant), tasks in runs.items():
        rows: dict[int, dict[str, SeedGroup]] = defaultdict(dict)
        for task, data_sets in tasks.items():
            # the better kind of data first, then the one with more runs
            order = sorted(data_sets.items(), key=lambda item: (KINDS.index(item[0][0]), -len(item[1]), item[0][1]))
            for i, (_, seeds) in enumerate(order):
                rows[i][task] = SeedGroup(tuple(seeds))
        groups |= {RowKey(model, variant, i): rows[i] for i in sorted(rows)}
    return groups


def best_of(rivals: dict[RowKey, SeedGroup]) -> tuple[set[RowKey], set[RowKey]]:
    """The rows with the best mean in a column, and those that do not differ from it; empty without competition."""
    scores = {key: group.mean for key, group in rivals.items() if group.mean is not None}
    if not scores or sum(group.outcome != "unfinished" for group in rivals.values()) < 2:
        return set(), set()
    metric = next(iter(rivals.values())).objective.metric
    top = (max if metric.higher_is_better else min)(scores.values())
    best = [key for key, score in scores.items() if score == top]
    return set(best), {k for k in scores if k not in best and not differ(rivals[best[0]], rivals[k])}
