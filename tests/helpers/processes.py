"""Training processes that tests start, watch, kill and wait for."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lra.paths import ROOT

SECONDS = 120  # limit for a condition


@dataclass
class Process:
    """A training process and its group, which holds all processes of the run."""

    pids: list[int]
    log: Path
    wait_for_all: Callable[[], list[int]]

    @property
    def pid(self) -> int:
        return self.pids[0]

    def wait(self) -> int:
        """Wait until all have ended; returns the exit status of the first."""
        return self.wait_for_all()[0]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the whole group, if it still runs."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return

    def until(self, condition: Callable[[], bool]) -> bool:
        """Busy-wait for a condition; False if the process ends first."""
        end = time.monotonic() + SECONDS
        while not condition():
            if has_ended(self.pid):
                return condition()
            assert time.monotonic() < end, self.log.read_text()[-2000:]
        return True


def has_ended(pid: int) -> bool:
    """Whether the process has ended, even if it was not waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@contextmanager
def starter():
    """Yields a function that starts scripts/train.py with its output appended to a file; see process_starter.py."""
    command = [sys.executable, str(Path(__file__).with_name("process_starter.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as service:

        def ask(**request) -> dict:
            assert service.stdin is not None
            assert service.stdout is not None
            service.stdin.write(json.dumps(request) + "\n")
            service.stdin.flush()
            return json.loads(service.stdout.readline())

        def start(
            arguments: list[str], log: Path, *, largest_file: int | None = None, world: int = 1, **environment: str
        ) -> Process:
            asked = {"arguments": arguments, "log": str(log), "largest_file": largest_file, "environment": environment}
            pids = ask(**asked, world=world)["pids"]
            return Process(pids, log, lambda: ask(wait=pids)["statuses"])

        yield start
        assert service.stdin is not None
        service.stdin.close()
