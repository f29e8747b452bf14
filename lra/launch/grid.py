"""The jobs of a grid: their commands, files and outcomes, and the record of one whose process died."""

import functools
import re
import shlex
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lra.config.overrides import result_overrides, task_words
from lra.objectives.objective import objective_of
from lra.paths import ROOT
from lra.records.record import Record, record_path
from lra.records.store import crashed_record, load, mark_crashed

TRAIN = ROOT / "scripts" / "train.py"
DONE = ("ok", "diverged", "oom")
KINDS = ("official", "subset", "generated", "toy")  # of data, best first
STOPPED = 130  # exit status of a run that was asked to stop
TAKEN = 4  # exit status of a run that another process is training
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class GridJob:
    """One model on one task with one seed. overrides: further arguments of scripts/train.py."""

    model: str
    task: str
    seed: int
    scale: str
    results: Path
    overrides: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """The command line of scripts/train.py."""
        names = [*task_words(self.task), f"model={self.model}", f"scale={self.scale}", f"seed={self.seed}"]
        return [*names, f"results={self.results}", *self.overrides]

    @property
    def command(self) -> str:
        return shlex.join(["python", TRAIN.relative_to(ROOT).as_posix(), *self.words])

    @property
    def variant(self) -> tuple[str, ...]:
        """The differences to the unchanged recipe, as its record names them."""
        return variant_of(self)

    @property
    def path(self) -> Path:
        """Path of the record."""
        return self.path_with(self.variant)

    def path_with(self, variant: Sequence[str]) -> Path:
        """Path of the record of a variant."""
        return record_path(
            ROOT / self.results, scale=self.scale, model=self.model, task=self.task, seed=self.seed, variant=variant
        )

    @property
    def runs(self) -> Path:
        given = [o.removeprefix("runs=") for o in self.overrides if o.startswith("runs=")]
        return ROOT / (given or ["runs"])[-1]

    @property
    def log(self) -> Path:
        return self.runs / self.scale / self.task / self.model / f"{self.path.stem}.log"

    @property
    def shown_log(self) -> Path:
        """Path of the log as printed, relative to the repository where possible."""
        return self.log.relative_to(ROOT) if self.log.is_relative_to(ROOT) else self.log

    def record(self) -> Record | None:
        """The record, if there is one that can be read."""
        try:
            return load(self.path) if self.path.exists() else None
        except ValueError:
            return None

    @property
    def record_error(self) -> str | None:
        """Why the record file cannot be read; None if it can, or does not exist."""
        try:
            load(self.path)
        except ValueError as error:
            return str(error) if self.path.exists() else None
        return None

    @property
    def done(self) -> bool:
        """Whether it has ended in a way that repeating it would not change, on the best data there is now."""
        record = self.record()
        return record is not None and record.status in DONE and not has_better_data(self, record.data.kind)

    def __str__(self) -> str:
        return f"{self.model} on {self.task}, seed {self.seed}"


def has_better_data(cell: GridJob, kind: str) -> bool:
    """Whether a job's command would use better data than `kind` now, such as official in place of generated."""
    if kind == "official":
        return False
    data = tuple(word for word in cell.words if word.startswith(("task", "scale=", "data.")))
    available = available_kind(data, cell.model)
    return available is not None and KINDS.index(available) < KINDS.index(kind)


_available_kinds: dict[tuple[str, ...], str | None] = {}


def available_kind(data: tuple[str, ...], model: str) -> str | None:
    """The kind of data that commands with these words use now, whatever the model; None if there is no such data."""
    from hydra.utils import instantiate

    from lra.config.compose import composed

    if data not in _available_kinds:
        try:
            task = composed([*data, f"model={model}"])["cfg"].task
            _available_kinds[data] = str(instantiate(task).available_kind)
        except (Exception, SystemExit):
            _available_kinds[data] = None  # the job itself says what is wrong
    return _available_kinds[data]


@functools.cache
def variant_of(cell: GridJob) -> tuple[str, ...]:
    """The variant in the record of a job, composed only if its overrides may change the result."""
    from lra.config.compose import COMPOSITION_ERRORS, cell_of, composed
    from lra.config.param_budget import fit_to_budget

    typed = tuple(result_overrides(cell.overrides))
    standard = cell.path_with(())
    if not typed and (standard.exists() or not any(standard.parent.glob(f"{cell.seed}-*.json"))):
        return ()
    try:
        known = composed([*cell.words, f"results={ROOT / cell.results}"])
        if known["cfg"].budget is not None:
            fit_to_budget(known["cfg"], task=cell.task, scale=cell.scale, overrides=list(cell.overrides))
        return tuple(cell_of(**known).variant)
    except COMPOSITION_ERRORS:
        return typed  # the job itself says what is wrong


def cells_of(
    models: Iterable[str], tasks: Iterable[str], seeds: Iterable[int], scale: str, results: Path, overrides: list[str]
) -> list[GridJob]:
    """All jobs of a grid, seed by seed."""
    models, tasks = list(models), list(tasks)
    more = tuple(overrides)
    return [GridJob(model, task, seed, scale, results, more) for seed in seeds for task in tasks for model in models]


def outdated(cells: Iterable[GridJob]) -> list[GridJob]:
    """Jobs whose record was made with other settings than their command has today."""
    from lra.config.compose import cell_of, composed
    from lra.config.param_budget import fit_to_budget

    hashes: dict[tuple[str, ...], str] = {}  # without the seed, which is not hashed
    found = []
    for cell in cells:
        if (record := cell.record()) is None:
            continue
        key = cell.model, cell.task, cell.scale, *cell.overrides
        if key not in hashes:
            known = composed(cell.words)
            if known["cfg"].budget is not None:
                fit_to_budget(known["cfg"], task=cell.task, scale=cell.scale, overrides=list(cell.overrides))
            hashes[key] = cell_of(**known).config_hash
        if record.config_hash != hashes[key]:
            found.append(cell)
    return found


def last_line(log: Path) -> str:
    """The last line of a log that is not empty, without colours."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    return next((text for line in reversed(lines) if (text := ANSI.sub("", line).strip())), "")


def settle(cell: GridJob, status: int | None) -> Record | None:
    """The record of a job whose process has ended; if it wrote none, write one with the status crashed.

    status  exit status as subprocess gives it, negative for a signal; None if unknown
    returns None if the configuration cannot be composed, or the record file is damaged (then it is left alone, as is
            the record of another process that trains the cell)
    """
    record = cell.record()
    if status == TAKEN or (record is None and cell.path.exists()):
        return record
    if record is not None and (record.status in DONE or (record.status == "interrupted" and status in (STOPPED, None))):
        return record
    reason = f"{exit_reason(status)}: {last_line(cell.log) or 'nothing in its log'} (log: {cell.shown_log})"
    if record is not None and record.status == "crashed" and status != 2:
        reason = record.reason or ""
        if reason and "log:" not in reason:
            reason += f" (log: {cell.shown_log})"
    if not mark_crashed(cell.path, reason) and record is None:
        _write_crashed(cell, reason)
    return cell.record()


def outcome(cell: GridJob, record: Record | None) -> str:
    """The score of a job that has ended, or why there is none and where its log is."""
    if record is None:
        return f"{cell.record_error or 'without a record'} (log: {cell.shown_log})"
    if record.test_score is not None:
        return f"{record.status} {objective_of(record.objective).metric.with_unit(record.test_score)}"
    # records hold no absolute path, so that of the log is added here
    reason = f": {record.reason.partition(' (log:')[0]}" if record.reason else ""
    return f"{record.status}{reason} (log: {cell.shown_log})"


def exit_reason(status: int | None) -> str:
    """An exit status in words."""
    if status is None:
        return "ended unseen"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return {2: "refused", STOPPED: "stopped before it began"}.get(status, f"ended with status {status}")


def _write_crashed(cell: GridJob, reason: str) -> None:
    from hydra.utils import instantiate

    from lra.config.compose import cell_of, composed

    try:
        known = composed(cell.words)
        cfg = known["cfg"]
        task = instantiate(cfg.task)
        made = cfg.data.source == "generated" or (cfg.data.source == "auto" and task.generated() is not None)
        record = crashed_record(
            cell_of(**known),
            kind="toy" if cfg.data.source == "toy" else "generated" if made else "official",
            objective=task.spec.objective,
            trivial=1 / task.spec.n_outputs,
            precision=cfg.trainer.precision,
            reason=reason,
        )
    except (Exception, SystemExit) as error:
        print(f"{cell}: its configuration cannot be composed ({error})", file=sys.stderr)
        return
    record.write(cell.path)
