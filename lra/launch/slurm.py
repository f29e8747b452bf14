"""Runs a grid on a SLURM cluster, through submitit: a job array for each class of resources, a job for each cell.

The driver only submits and watches. It may be ended at any time: jobs continue, and the same command finds them again.
Outcomes are read from the records, so the cluster needs no accounting database.

A job runs scripts/train.py as a subprocess. Before the time limit, or when a job is preempted, SLURM sends USR2; the
run then saves and stops, and submitit requeues the job.
"""

import contextlib
import getpass
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lra.console import duration, log_interval
from lra.errors import UserError
from lra.io.atomic import atomic_write
from lra.launch.grid import STOPPED, TRAIN, GridJob, last_line, outcome, settle
from lra.launch.local import HEARTBEAT, STEP, job_table
from lra.launch.slurm_options import group_by_resources, launcher_settings
from lra.paths import ROOT

POLL_SECONDS = 5.0  # between two queries of the queue
GRACE_SECONDS = 30.0  # time in which the signal for a requeue follows the one to end
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")


def error_of(program: str, stderr: str) -> str:
    """The last two lines of an error message of SLURM, as one line without the name of the program."""
    lines = [re.sub(rf"^{program}: (error|fatal): ", "", line.strip()) for line in stderr.splitlines() if line.strip()]
    return "; ".join(lines[-2:]) or "no reason given"


class TrainJob:
    """Callable that SLURM runs: one cell in a subprocess. submitit calls `checkpoint` when the job must end."""

    def __init__(self, words: list[str], log: str):
        self.words, self.log = words, log

    def __call__(self) -> int:
        signals = {signal.SIGUSR1, signal.SIGUSR2}
        # SLURM signals the subprocess too, which is stopped by SIGTERM alone; it inherits ignored signals
        before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
        with Path(self.log).open("a") as log:
            # LRA_PATIENCE: the process that was just told to stop may still be saving
            environment = os.environ | {"LRA_PATIENCE": "60"}
            command = [sys.executable, str(TRAIN), *self.words]
            self.child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        for number, handler in before.items():
            signal.signal(number, handler)
        status = self.child.wait()
        if status in (STOPPED, -signal.SIGTERM):
            self._await_the_end()
        return status

    def _await_the_end(self) -> None:
        """Wait until SLURM ends or requeues this job.

        SLURM requeues a preempted job only if it is still running at the end of its grace time.
        """
        time.sleep(GRACE_SECONDS)
        command = ["scontrol", "--oneliner", "show", "job", os.environ["SLURM_JOB_ID"]]
        while True:
            job = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            preempted = re.search(r"\bPreemptTime=(\S+)", job)
            if preempted is None or preempted[1] == "None":
                return
            time.sleep(GRACE_SECONDS)

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        # this interrupts `wait` in __call__, which holds a lock: a second `wait` would never return
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.child.pid, signal.SIGTERM)
            os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(TrainJob(self.words, self.log))


def run(cells: Sequence[GridJob], launcher: str, console: Console, *, every: float = POLL_SECONDS) -> bool:
    """Submit the cells that are not in the queue and watch them. False if watching was ended before they were.

    raises  UserError if SLURM or the settings of the launcher cannot be used
    """
    # jobs unpickle classes of this module
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    jobs = Jobs(launcher, (cells[0].runs if cells else ROOT / "runs") / launcher)
    jobs.submit(cells, launcher_settings(launcher), console)
    return jobs.watch(cells, console, every)


class Jobs:
    """Job numbers of the cells, kept in <folder>/jobs.json next to submitit's files."""

    def __init__(self, launcher: str, folder: Path):
        if shutil.which("sbatch") is None:
            raise UserError(f"LAUNCHER={launcher}: no sbatch on this machine", hint="start this on a login node")
        self.folder = folder
        self.file = self.folder / "jobs.json"
        self.numbers: dict[str, str] = json.loads(self.file.read_text()) if self.file.exists() else {}

    def submit(self, cells: Sequence[GridJob], settings: dict[str, Any], console: Console) -> None:
        import submitit

        queued = self.queue()
        new = [cell for cell in cells if self.number(cell) not in queued]
        for resources, group in group_by_resources(new, settings):
            executor = submitit.SlurmExecutor(self.folder / "%j", max_num_timeout=resources.requeues)
            executor.update_parameters(**resources.parameters())
            distributed = resources.processes * resources.nodes > 1
            devices = [f"trainer.devices={resources.processes}", f"trainer.nodes={resources.nodes}"] * distributed
            try:
                # submitit repeats the message of sbatch on stderr
                with contextlib.redirect_stderr(io.StringIO()), executor.batch():
                    jobs = [executor.submit(self._job(cell, devices)) for cell in group]
            except RuntimeError as error:
                hint = f"configs/launcher/{self.folder.name}.yaml says what a job requests"
                raise UserError(f"sbatch refused: {error_of('sbatch', str(error))}", hint=hint) from None
            self.numbers |= {str(cell.path): job.job_id for cell, job in zip(group, jobs, strict=True)}
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic_write(self.file, json.dumps(self.numbers, indent=1, sort_keys=True))
        console.print(f"{len(new)} submitted, {len(cells) - len(new)} found in the queue")

    def number(self, cell: GridJob) -> str:
        return self.numbers.get(str(cell.path), "")

    def _job(self, cell: GridJob, devices: list[str]) -> TrainJob:
        cell.log.parent.mkdir(parents=True, exist_ok=True)
        cell.log.write_text("")
        return TrainJob([*cell.words, *devices], str(cell.log))

    def queue(self) -> dict[str, str]:
        """State of every job in the queue by its number; of a pending job with the reason."""
        command = ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i %T %r"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise UserError(f"squeue cannot be run ({error.strerror})", hint="start this on a login node") from None
        if done.returncode:
            raise UserError(f"squeue failed: {error_of('squeue', done.stderr)}", hint="sinfo shows whether SLURM is up")
        states = {}
        for job, state, reason in (line.split(maxsplit=2) for line in done.stdout.splitlines()):
            if state not in ENDED:
                with_reason = state == "PENDING" and reason != "None"
                states[job] = f"pending ({reason})" if with_reason else state.lower()
        return states

    def watch(self, cells: Sequence[GridJob], console: Console, every: float) -> bool:
        """Show the jobs until all cells have ended; False after Ctrl-C."""
        left, done = list(cells), Counter[str]()
        began = printed = time.monotonic()
        states: dict[str, str] = {}
        error: str | None = None
        try:
            with Live(console=console, refresh_per_second=1, transient=True) as live:
                while left:
                    before, error = error, None
                    try:
                        states = self.queue()
                    except UserError as problem:
                        error = f"{problem}; asking again, the jobs continue"
                    if error and not before:
                        console.print(error, highlight=False, soft_wrap=True, style="red", markup=False)
                    for cell in [c for c in left if not error and self.number(c) not in states]:
                        left.remove(cell)
                        record = settle(cell, None)
                        done[record.status if record else "without a record"] += 1
                        line = f"{sum(done.values())}/{len(cells)} {cell}: {outcome(cell, record)}"
                        style = "" if record and record.status == "ok" else "red"
                        console.print(line, highlight=False, soft_wrap=True, style=style, markup=False)
                    table, now = self.overview(left, states, done, time.monotonic() - began), time.monotonic()
                    live.update(table)
                    if not console.is_terminal and now - printed > log_interval(now - began, HEARTBEAT, 20 * HEARTBEAT):
                        console.print(table.title, soft_wrap=True)
                        printed = now
                    if left:
                        time.sleep(every)
        except KeyboardInterrupt:
            console.print("the jobs continue; the same command watches them again, scancel --name=lra ends them")
            return False
        return True

    def overview(self, cells: Sequence[GridJob], states: dict[str, str], done: Counter[str], spent: float) -> Table:
        state = {cell: states.get(self.number(cell), "?") for cell in cells}
        counts = ", ".join(f"{n} {s}" for s, n in sorted((Counter(state.values()) + done).items()))
        table = job_table(Text(f"{counts} ({duration(spent)})"), ("model", "task", "seed", "job", "steps"))
        for cell in [c for c in cells if state[c] == "running"][:30]:
            line = last_line(cell.log)
            steps = STEP.search(line)
            progress = f"{steps[1]}/{steps[2]}" if steps else ""
            rest = Text(line[steps.end() if steps else 0 :])
            table.add_row(cell.model, cell.task, str(cell.seed), self.number(cell), progress, rest)
        return table
