"""Runs a grid on this machine, several jobs at a time, each in its own process.

The processes are forked from a server that has imported the libraries once and computed nothing, so that a job starts
at once and its crash ends no other. The output of a job goes to its log; the screen shows an overview.
"""

import itertools
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lra.console import duration, log_interval
from lra.launch.grid import TAKEN, TRAIN, GridJob, last_line, outcome, settle
from lra.launch.lock import AlreadyRunning, acquire
from lra.paths import ROOT
from lra.records.environment import cores

STEP = re.compile(r"step (\d+)/(\d+) ?")
HEARTBEAT = 30.0  # seconds between two lines where there is no terminal, at first
PRELOAD = ["lra.launch.job", "lra.tracking", "lra.training.run", "lra.training.kernel_snapshots", "wandb"]


@dataclass
class Running:
    """A running job and the progress that its log shows."""

    process: ForkServerProcess
    slot: int
    since: float = field(default_factory=time.monotonic)
    line: str = ""
    steps: tuple[int, int] | None = None  # done, of
    first: tuple[float, int] | None = None  # time and number of the first steps seen: a resumed job does not start at 0
    last: tuple[float, int] | None = None

    def read(self, log: Path) -> None:
        """Update from the last line of the log."""
        self.line = last_line(log)
        if not (found := STEP.search(self.line)):
            return
        self.line = self.line[found.end() :]
        done, total = int(found[1]), int(found[2])
        if self.steps == (done, total):
            return
        seen = time.monotonic(), done
        # training after pretraining starts at 0 again
        restarted = self.steps is None or total != self.steps[1] or done < self.steps[0]
        self.first, self.last, self.steps = seen if restarted else self.first, seen, (done, total)

    @property
    def seconds(self) -> float | None:
        """Duration of the whole job, extrapolated from its steps; None before two different steps were seen."""
        if self.steps is None or self.first is None or self.last is None or self.last == self.first:
            return None
        pace = (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])
        return self.last[0] - self.since + pace * (self.steps[1] - self.steps[0])


def start_server(preload: list[str]) -> ForkServerContext:
    """Start the server that processes are forked from. It imports `preload` before it forks the first one."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preload)
    # Ctrl-C at the terminal while it imports would print a trace
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, before)
    return context


def _nothing() -> None:
    """The first process of a server, which waits for the imports."""


def _work(words: list[str], log: str, threads: int, gpu: str | None) -> None:
    """Run a job in its own process; the exit status is that of scripts/train.py."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which stops its jobs by SIGTERM
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    os.environ |= {"OMP_NUM_THREADS": str(threads), "LRA_PATIENCE": "60"}
    lock = lock_log(Path(log))
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    sys.argv = [str(TRAIN), *words]
    import __main__

    __main__.__spec__ = None  # Lightning starts further processes by this command line, not by that of the grid
    import torch

    from lra.config.compose import composed
    from lra.launch.job import one

    torch.set_num_threads(threads)
    try:
        status = one(**composed(words))
    except AlreadyRunning:
        status = TAKEN
    except Exception:
        traceback.print_exc()
        status = 1
    lock.release()
    sys.exit(status)


def lock_log(log: Path) -> FileLock:
    """Lock and empty the log of a job. Exits, without touching the log, if the job of another grid holds it."""
    lock = acquire(log.with_suffix(".lock"))
    if lock is None:
        sys.exit(TAKEN)
    log.write_text("")
    return lock


def _stop_with_parent() -> None:
    """When the grid itself dies, its jobs save and stop."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


class WorkerPool:
    """Runs `jobs` processes at a time until every cell has ended.

    seconds  expected duration of a cell, None if unknown
    """

    def __init__(
        self, cells: Sequence[GridJob], jobs: int, console: Console, seconds: Callable[[GridJob], float | None]
    ):
        self.waiting, self.jobs, self.console = list(cells), jobs, console
        self.total = len(self.waiting)
        self.expected = {cell: seconds(cell) for cell in cells}
        self.running: dict[GridJob, Running] = {}
        self.done: Counter[str] = Counter()
        self.durations: list[tuple[float, float | None]] = []  # seconds of each cell that has ended: real, expected
        self.stopping = False
        self.began = self.printed = time.monotonic()
        self.threads = max(1, cores() // jobs)
        # torch reads this when it is first imported, which is in the server
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        self.gpus = visible_gpus()

    def run(self) -> bool:
        """Run all cells; False if it was asked to stop."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            if self.waiting:
                self._load()
            free = list(range(self.jobs))
            with Live(self.overview(), console=self.console, refresh_per_second=2, transient=True) as live:
                while self.running or (self.waiting and not self.stopping):
                    while self.waiting and free and not self.stopping:
                        self._start(self.waiting.pop(0), free.pop(0))
                    for cell, running in list(self.running.items()):
                        if running.process.exitcode is not None:
                            free.append(running.slot)
                            self._end(cell, running)
                    live.update(self.overview())
                    self._print_overview()
                    time.sleep(0.2)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return not self.stopping

    def _load(self) -> None:
        """Start the server of processes and wait for its imports, or until asked to stop."""
        self.context = start_server(PRELOAD)
        first = threading.Thread(target=lambda: self.context.Process(target=_nothing).start(), daemon=True)
        first.start()
        message = "loading the libraries, once for all cells"
        if not self.console.is_terminal:
            self.console.print(message, highlight=False)
        with self.console.status(message):
            while first.is_alive() and not self.stopping:
                first.join(0.1)

    def _start(self, cell: GridJob, slot: int) -> None:
        cell.log.parent.mkdir(parents=True, exist_ok=True)
        gpu = self.gpus[slot % len(self.gpus)] if self.gpus else None
        arguments = (cell.words, str(cell.log), self.threads, gpu)
        process = self.context.Process(target=_work, args=arguments, daemon=False)
        process.start()
        self.running[cell] = Running(process, slot)

    def _end(self, cell: GridJob, running: Running) -> None:
        del self.running[cell]
        seconds = time.monotonic() - running.since
        status = running.process.exitcode
        if self.stopping:
            return  # it has saved its state, and is resumed next time
        record = settle(cell, status)
        if status == TAKEN:
            word, result = "elsewhere", f"another process trains it (log: {cell.shown_log})"
        else:
            word, result = record.status if record else "without a record", outcome(cell, record)
            self.durations.append((seconds, self.expected[cell]))
        self.done[word] += 1
        number = sum(self.done.values())
        line = f"{number:>{len(str(self.total))}}/{self.total} {cell}: {result} ({duration(seconds)})"
        self.console.print(line, highlight=False, soft_wrap=True, style="" if word == "ok" else "red", markup=False)

    def _stop(self, number: int, frame: Any) -> None:
        """Signal handler: jobs save their state and stop, and no other starts."""
        self.stopping = True
        for running in self.running.values():
            if running.process.exitcode is None:
                os.kill(running.process.pid or 0, signal.SIGTERM)

    def time_left(self) -> str:
        """Time left, from the steps of running cells, expected durations and those of the cells that have ended."""
        known = [(seconds, expected) for seconds, expected in self.durations if expected]
        pace = sum(s for s, _ in known) / sum(e for _, e in known) if known else 1.0
        own = {cell: s for cell, running in self.running.items() if (s := running.seconds) is not None}
        so_far = [seconds for seconds, _ in self.durations] or list(own.values())
        usual = sum(so_far) / len(so_far) if so_far else None
        left = []
        for cell in [*self.running, *self.waiting]:
            expected = self.expected[cell]
            if (seconds := own.get(cell) or (expected * pace if expected else usual)) is None:
                return ""
            spent = time.monotonic() - self.running[cell].since if cell in self.running else 0.0
            left.append(max(0.0, seconds - spent))
        # a cell runs in one slot
        return f", about {duration(max(max(left), sum(left) / self.jobs))} left" if left else ""

    @property
    def state(self) -> str:
        counts = "".join(f", {n} {status}" for status, n in sorted(self.done.items()))
        head = "stopping: " if self.stopping else ""
        return f"{head}{len(self.running)} running, {len(self.waiting)} waiting{counts}{self.time_left()}"

    def overview(self) -> Table:
        for cell, running in self.running.items():
            running.read(cell.log)
        table = job_table(Text(self.state), ("model", "task", "seed", "time", "steps"))
        for cell, running in self.running.items():
            bar: Any = ""
            if running.steps:
                bar = ProgressBar(total=running.steps[1], completed=running.steps[0], width=16)
            spent = duration(time.monotonic() - running.since)
            table.add_row(cell.model, cell.task, str(cell.seed), spent, bar, Text(running.line))
        return table

    def _print_overview(self) -> None:
        """Where there is no terminal, print the overview as a line, less often the longer the grid takes."""
        now = time.monotonic()
        if self.console.is_terminal or now - self.printed < log_interval(now - self.began, HEARTBEAT, 20 * HEARTBEAT):
            return
        self.printed = now
        jobs = "; ".join(
            f"{cell}" + (f", step {r.steps[0]}/{r.steps[1]}" if r.steps else "") for cell, r in self.running.items()
        )
        self.console.print(f"{self.state}: {jobs}", highlight=False, soft_wrap=True, markup=False)


def job_table(title: Text, columns: Sequence[str]) -> Table:
    """An empty table of jobs, with the last line of each log in its last column."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1), expand=True)
    for column in columns:
        table.add_column(column, no_wrap=True)
    table.add_column("last line of its log", no_wrap=True, ratio=1)  # takes the width that is left
    return table


def visible_gpus() -> list[str]:
    """Names of the usable GPUs as in CUDA_VISIBLE_DEVICES, found without initialising CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        # in a container their files keep the numbers of the machine; CUDA counts from 0
        files = [p for p in Path("/dev").glob("nvidia[0-9]*") if p.name[6:].isdigit()]
        return [str(number) for number in range(len(files))]
    # CUDA stops reading at an invalid name such as -1
    return list(itertools.takewhile(lambda name: name not in ("", "-1"), visible.replace(" ", "").split(",")))
