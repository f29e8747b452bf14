"""A grid on this machine: so many cells at a time, each in a process of its own.

The processes are forked from a server that has imported everything once and computed nothing, so that a cell starts
at once, and its crash is its own. What it prints goes to its log; the screen shows an overview.
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
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lra.console import duration, log_interval
from lra.launch.grid import TAKEN, TRAIN, GridJob, last_line, outcome, settle
from lra.launch.lock import Taken, locked
from lra.paths import ROOT
from lra.records.environment import cores

STEP = re.compile(r"step (\d+)/(\d+) ?")
HEARTBEAT = 30.0  # seconds between two lines where there is no terminal, at first
PRELOAD = ["lra.launch.job", "lra.tracking", "lra.training.run", "lra.training.kernel_snapshots", "wandb"]


@dataclass
class Running:
    """A cell at work, and what its log says of it."""

    process: ForkServerProcess
    slot: int
    since: float = field(default_factory=time.monotonic)
    line: str = ""
    steps: tuple[int, int] | None = None  # done, of
    first: tuple[float, int] | None = None  # when steps were first seen, and how many: a cell that goes on has some
    last: tuple[float, int] | None = None

    def look(self, log: Path) -> None:
        self.line = last_line(log)
        if not (found := STEP.search(self.line)):
            return
        self.line = self.line[found.end() :]
        done, total = int(found[1]), int(found[2])
        if self.steps == (done, total):
            return
        seen = time.monotonic(), done
        # pretraining counts steps of its own
        again = self.steps is None or total != self.steps[1] or done < self.steps[0]
        self.first, self.last, self.steps = seen if again else self.first, seen, (done, total)

    @property
    def seconds(self) -> float | None:
        """What all of it will have taken by its own steps, None where these tell nothing yet."""
        if self.steps is None or self.first is None or self.last is None or self.last == self.first:
            return None
        pace = (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])
        return self.last[0] - self.since + pace * (self.steps[1] - self.steps[0])


def server(preload: list[str]) -> ForkServerContext:
    """Starts the server that processes are forked from; the first process is there when it has imported everything."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preload)
    # while it imports it would end with a trace at the terminal's Ctrl-C
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, before)
    return context


def _nothing() -> None:
    """The first process of a server."""


def _work(words: list[str], log: str, threads: int, gpu: str | None) -> None:
    """One cell, in its own process: the exit status is that of scripts/train.py."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: whoever started us says when to stop
    threading.Thread(target=_follow, daemon=True).start()
    os.environ |= {"OMP_NUM_THREADS": str(threads), "LRA_PATIENCE": "60"}
    held = own(Path(log))
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
    except Taken:
        status = TAKEN
    except Exception:
        traceback.print_exc()
        status = 1
    held.close()
    sys.exit(status)


def own(log: Path) -> TextIO:
    """The log of a cell, emptied and held; where another grid holds it, this ends, and the log stays as it is."""
    held = log.open("a")
    if not locked(held):
        sys.exit(TAKEN)
    held.truncate(0)
    return held


def _follow() -> None:
    """When the grid itself dies, its cells save and stop."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


class WorkerPool:
    """Works through cells, `jobs` at a time.

    seconds  what a cell is expected to take, None where nobody knows
    """

    def __init__(
        self, cells: Sequence[GridJob], jobs: int, console: Console, seconds: Callable[[GridJob], float | None]
    ):
        self.waiting, self.jobs, self.console = list(cells), jobs, console
        self.total = len(self.waiting)
        self.expected = {cell: seconds(cell) for cell in cells}
        self.running: dict[GridJob, Running] = {}
        self.done: Counter[str] = Counter()
        self.taken: list[tuple[float, float | None]] = []  # seconds of each cell that has ended, and those expected
        self.stopping = False
        self.began = self.said = time.monotonic()
        self.threads = max(1, cores() // jobs)
        # read when torch is first imported, which is in the server
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        self.gpus = gpus()

    def run(self) -> bool:
        """True if it came to the end, False if it was asked to stop."""
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
                    self._say()
                    time.sleep(0.2)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return not self.stopping

    def _load(self) -> None:
        """Start the server of processes and wait until it has imported everything, or until asked to stop."""
        self.context = server(PRELOAD)
        first = threading.Thread(target=lambda: self.context.Process(target=_nothing).start(), daemon=True)
        first.start()
        said = "loading the libraries, once for all cells"
        if not self.console.is_terminal:
            self.console.print(said, highlight=False)
        with self.console.status(said):
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
        took = time.monotonic() - running.since
        status = running.process.exitcode
        if self.stopping:
            return  # what it has written stands: it goes on next time
        record = settle(cell, status)
        if status == TAKEN:
            word, how = "elsewhere", f"another process trains it (log: {cell.place})"
        else:
            word, how = record.status if record else "without a record", outcome(cell, record)
            self.taken.append((took, self.expected[cell]))
        self.done[word] += 1
        number = sum(self.done.values())
        line = f"{number:>{len(str(self.total))}}/{self.total} {cell}: {how} ({duration(took)})"
        self.console.print(line, highlight=False, soft_wrap=True, style="" if word == "ok" else "red", markup=False)

    def _stop(self, number: int, frame: Any) -> None:
        """Cells save their state and stop; no other begins."""
        self.stopping = True
        for running in self.running.values():
            if running.process.exitcode is None:
                os.kill(running.process.pid or 0, signal.SIGTERM)

    def left(self) -> str:
        """Time left, from the steps of running cells and what others took so far beside what was expected of them."""
        known = [(took, expected) for took, expected in self.taken if expected]
        pace = sum(t for t, _ in known) / sum(e for _, e in known) if known else 1.0
        own = {cell: s for cell, running in self.running.items() if (s := running.seconds) is not None}
        so_far = [took for took, _ in self.taken] or list(own.values())
        usual = sum(so_far) / len(so_far) if so_far else None
        each = []
        for cell in [*self.running, *self.waiting]:
            expected = self.expected[cell]
            if (mine := own.get(cell) or (expected * pace if expected else usual)) is None:
                return ""
            spent = time.monotonic() - self.running[cell].since if cell in self.running else 0.0
            each.append(max(0.0, mine - spent))
        # no cell is shared out
        return f", about {duration(max(max(each), sum(each) / self.jobs))} left" if each else ""

    @property
    def state(self) -> str:
        counts = "".join(f", {n} {status}" for status, n in sorted(self.done.items()))
        head = "stopping: " if self.stopping else ""
        return f"{head}{len(self.running)} running, {len(self.waiting)} waiting{counts}{self.left()}"

    def overview(self) -> Table:
        for cell, running in self.running.items():
            running.look(cell.log)
        table = Table(title=self.state, title_justify="left", box=None, padding=(0, 1), expand=True)
        for column in ("model", "task", "seed", "time", "steps"):
            table.add_column(column, no_wrap=True)
        table.add_column("last line of its log", no_wrap=True, ratio=1)  # takes what the others leave
        for cell, running in self.running.items():
            bar: Any = ""
            if running.steps:
                bar = ProgressBar(total=running.steps[1], completed=running.steps[0], width=16)
            spent = duration(time.monotonic() - running.since)
            table.add_row(cell.model, cell.task, str(cell.seed), spent, bar, Text(running.line))
        return table

    def _say(self) -> None:
        """The overview in a line, where there is no terminal: seldom, and the more so the longer the grid takes."""
        now = time.monotonic()
        if self.console.is_terminal or now - self.said < log_interval(now - self.began, HEARTBEAT, 20 * HEARTBEAT):
            return
        self.said = now
        at_work = "; ".join(
            f"{cell}" + (f", step {r.steps[0]}/{r.steps[1]}" if r.steps else "") for cell, r in self.running.items()
        )
        self.console.print(f"{self.state}: {at_work}", highlight=False, soft_wrap=True, markup=False)


def gpus() -> list[str]:
    """The GPUs that may be used, by the names CUDA_VISIBLE_DEVICES has for them, asked without touching them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        # their files keep the numbers of the machine where a container has some of them; CUDA counts from 0
        there = [p for p in Path("/dev").glob("nvidia[0-9]*") if p.name[6:].isdigit()]
        return [str(number) for number in range(len(there))]
    # to CUDA a list ends at a name that stands for none, such as -1
    return list(itertools.takewhile(lambda name: name not in ("", "-1"), visible.replace(" ", "").split(",")))
