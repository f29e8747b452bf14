"""A grid on a SLURM cluster, through submitit: an array of jobs for each class of resources, a cell in each job.

The driver only submits and watches. It may be ended at any time: jobs run on, and the same command finds them again.
What came out is read from the records, never from SLURM, which need not keep any accounts.

A job runs scripts/train.py in a process of its own. Before the time limit, or when a job is preempted, SLURM sends
USR2; the cell then saves and stops, and submitit puts the job back into the queue.
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
from lra.io.atomic import atomic_write
from lra.launch.grid import STOPPED, TRAIN, GridJob, last_line, outcome, settle
from lra.launch.local import HEARTBEAT, STEP
from lra.launch.slurm_options import Refused, classes_of, refuse, settings_of
from lra.paths import ROOT

EVERY = 5.0  # seconds between two looks at the queue
GRACE = 30.0  # seconds in which the signal for a requeue follows the one to end


def said(program: str, error: str) -> str:
    """The end of what a program of SLURM complains of, as one line without its name."""
    lines = [re.sub(rf"^{program}: (error|fatal): ", "", line.strip()) for line in error.splitlines() if line.strip()]
    return "; ".join(lines[-2:]) or "it does not say why"


class TrainCell:
    """What a job does: one cell, in a process of its own; `checkpoint` is called by submitit when the job must go."""

    def __init__(self, words: list[str], log: str):
        self.words, self.log = words, log

    def __call__(self) -> int:
        signals = {signal.SIGUSR1, signal.SIGUSR2}
        # for the cell itself, which is told to stop by SIGTERM; ignored signals stay so in a new program
        before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
        with Path(self.log).open("a") as log:
            # LRA_PATIENCE: the process of this cell that was just told to stop may still be saving
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
        """SLURM has told the cell to stop, and is about to end this job or to requeue it.

        A job that ends by itself is over; one that is being preempted is put back only if its time of grace still finds
        it here.
        """
        time.sleep(GRACE)
        command = ["scontrol", "--oneliner", "show", "job", os.environ["SLURM_JOB_ID"]]
        while True:
            known = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            preempted = re.search(r"\bPreemptTime=(\S+)", known)
            if preempted is None or preempted[1] == "None":
                return
            time.sleep(GRACE)

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        # __call__ is interrupted in the middle of its wait, whose lock is held: another wait would never end
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.child.pid, signal.SIGTERM)
            os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(TrainCell(self.words, self.log))


def run(cells: Sequence[GridJob], launcher: str, console: Console, *, every: float = EVERY) -> bool:
    """Submit what is not in the queue yet, and watch. True when all have ended, False if the watching was ended."""
    # of the jobs, too: they unpickle what is defined here
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    try:
        jobs = Jobs(launcher, (cells[0].runs if cells else ROOT / "runs") / launcher)
        jobs.submit(cells, settings_of(launcher), console)
        return jobs.watch(cells, console, every)
    except Refused as error:
        print(f"lra-all: {error}", file=sys.stderr)
        sys.exit(2)


class Jobs:
    """Which job of the queue does which cell, kept in <folder>/jobs.json beside what submitit keeps."""

    def __init__(self, launcher: str, folder: Path):
        try:
            import submitit  # noqa: F401
        except ImportError:
            refuse(f"LAUNCHER={launcher} needs submitit, which is not installed: .venv/bin/uv pip install submitit")
        if shutil.which("sbatch") is None:
            refuse(f"LAUNCHER={launcher}: no sbatch on this machine; start this on a login node of the cluster")
        self.folder = folder
        self.file = self.folder / "jobs.json"
        self.known: dict[str, str] = json.loads(self.file.read_text()) if self.file.exists() else {}

    def submit(self, cells: Sequence[GridJob], settings: dict[str, Any], console: Console) -> None:
        import submitit

        queued = self.queue()
        waiting = [cell for cell in cells if self.known.get(str(cell.path)) not in queued]
        for resources, mine in classes_of(waiting, settings).values():
            executor = submitit.SlurmExecutor(self.folder / "%j", max_num_timeout=resources.requeues)
            executor.update_parameters(**resources.parameters())
            whole = resources.processes * resources.nodes
            more = [f"trainer.devices={resources.processes}", f"trainer.nodes={resources.nodes}"] if whole > 1 else []
            try:
                # submitit repeats there what sbatch says
                with contextlib.redirect_stderr(io.StringIO()), executor.batch():
                    jobs = [executor.submit(self._work(cell, more)) for cell in mine]
            except RuntimeError as error:
                cure = f"mend configs/launcher/{self.folder.name}.yaml, which says what a job asks for"
                refuse(f"sbatch refused: {said('sbatch', str(error))}: {cure}")
            self.known |= {str(cell.path): job.job_id for cell, job in zip(mine, jobs, strict=True)}
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic_write(self.file, json.dumps(self.known, indent=1, sort_keys=True))
        console.print(f"{len(waiting)} submitted, {len(cells) - len(waiting)} found in the queue")

    def _work(self, cell: GridJob, more: list[str]) -> TrainCell:
        cell.log.parent.mkdir(parents=True, exist_ok=True)
        cell.log.write_text("")
        return TrainCell([*cell.words, *more], str(cell.log))

    def queue(self) -> dict[str, str]:
        """Job -> state, of all that SLURM still has to do; of a waiting one with the reason."""
        command = ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i %T %r"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            refuse(f"squeue cannot be run ({error.strerror}): it comes with sbatch, on a login node of the cluster")
        if done.returncode:
            refuse(
                f"squeue failed: {said('squeue', done.stderr)}: SLURM does not answer here; `sinfo` says when it does"
            )
        states = {}
        for job, state, reason in (line.split(maxsplit=2) for line in done.stdout.splitlines()):
            if state not in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"):
                waits = state == "PENDING" and reason != "None"
                states[job] = f"pending ({reason})" if waits else state.lower()
        return states

    def watch(self, cells: Sequence[GridJob], console: Console, every: float) -> bool:
        open_, done = list(cells), Counter[str]()
        began = said = time.monotonic()
        states: dict[str, str] = {}
        trouble = ""
        try:
            with Live(console=console, refresh_per_second=1, transient=True) as live:
                while open_:
                    before, trouble = trouble, ""
                    try:
                        states = self.queue()
                    except Refused as error:
                        trouble = f"{error}; asking again, and the jobs go on"
                    if trouble and not before:
                        console.print(trouble, highlight=False, soft_wrap=True, style="red", markup=False)
                    for cell in [c for c in open_ if not trouble and self.known.get(str(c.path)) not in states]:
                        open_.remove(cell)
                        record = settle(cell, None)
                        done[record.status if record else "without a record"] += 1
                        line = f"{sum(done.values())}/{len(cells)} {cell}: {outcome(cell, record)}"
                        style = "" if record and record.status == "ok" else "red"
                        console.print(line, highlight=False, soft_wrap=True, style=style, markup=False)
                    shown, now = self.overview(open_, states, done, time.monotonic() - began), time.monotonic()
                    live.update(shown)
                    if not console.is_terminal and now - said > log_interval(now - began, HEARTBEAT, 20 * HEARTBEAT):
                        console.print(shown.title, soft_wrap=True)
                        said = now
                    if open_:
                        time.sleep(every)
        except KeyboardInterrupt:
            console.print("the jobs go on; the same command watches them again, scancel --name=lra ends them")
            return False
        return True

    def overview(self, cells: Sequence[GridJob], states: dict[str, str], done: Counter[str], spent: float) -> Table:
        state = {cell: states.get(self.known.get(str(cell.path), ""), "?") for cell in cells}
        counts = ", ".join(f"{n} {s}" for s, n in sorted((Counter(state.values()) + done).items()))
        table = Table(
            title=Text(f"{counts} ({duration(spent)})"), title_justify="left", box=None, padding=(0, 1), expand=True
        )
        for column in ("model", "task", "seed", "job", "steps"):
            table.add_column(column, no_wrap=True)
        table.add_column("last line of its log", no_wrap=True, ratio=1)  # takes what the others leave
        for cell in [c for c in cells if state[c] == "running"][:30]:
            line = last_line(cell.log)
            steps = STEP.search(line)
            progress = f"{steps[1]}/{steps[2]}" if steps else ""
            job = self.known.get(str(cell.path), "")
            said = Text(line[steps.end() if steps else 0 :])
            table.add_row(cell.model, cell.task, str(cell.seed), job, progress, said)
        return table
