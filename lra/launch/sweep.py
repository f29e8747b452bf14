"""A --multirun of scripts/train.py: numbers its runs, and ranks those with a result at the end."""

from collections.abc import Iterator

from lra.config.sweep import jobs_of
from lra.launch.lock import console
from lra.objectives.objective import objective_of
from lra.records.record import Record


class Sweep:
    """Runs of a sweep in this process. failed: overrides of those without a result."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.failed: list[str] = []
        self.ended: list[tuple[list[str], Record]] = []

    def begin(self, words: list[str]) -> None:
        """Check the words of the command line and count the jobs; UserError as `lra.config.sweep.jobs_of`."""
        jobs = jobs_of(words)
        self.total = None if jobs is None else len(jobs)

    def announce(self, number: int, overrides: list[str]) -> None:
        of = "" if self.total is None else f" of {self.total}"
        console.print(f"[bold]run {number + 1}{of}[/]:", " ".join(overrides), highlight=False, soft_wrap=True)

    def add(self, overrides: list[str], record: Record | None) -> None:
        """Keep the outcome of a run; None: it has no result."""
        if record is None:
            self.failed.append(" ".join(overrides))
        else:
            self.ended.append((overrides, record))

    def ranking(self) -> Iterator[str]:
        """Lines, for each task and scale: its runs by validation score, best first, with what differs among them."""
        groups: dict[tuple[str, str], list[tuple[list[str], Record]]] = {}
        for overrides, record in self.ended:
            groups.setdefault((record.task, record.scale), []).append((overrides, record))
        for (task, scale), runs in groups.items():
            if len(runs) < 2:
                continue
            metric = objective_of(runs[0][1].objective).metric
            yield f"{task}, scale {scale}: {len(runs)} runs by validation {metric.title}"
            shared = set.intersection(*(set(overrides) for overrides, _ in runs))
            runs.sort(key=lambda run: run[1].val_score or 0.0, reverse=metric.higher_is_better)
            for place, (overrides, record) in enumerate(runs, start=1):
                validation, test = (metric.with_unit(score or 0.0) for score in (record.val_score, record.test_score))
                own = " ".join(word for word in overrides if word not in shared)
                yield f"{place:4}  {validation}, test {test}  {own}"
