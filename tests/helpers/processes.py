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

SECONDS = 120  # after which something is wrong


@dataclass
class Process:
    """A training process, the first of its group; the others of a run of several are in it too."""

    pids: list[int]
    log: Path
    wait_for_all: Callable[[], list[int]]

    @property
    def pid(self) -> int:
        return self.pids[0]

    def wait(self) -> int:
        """Until all have ended; the exit status of the first."""
        return self.wait_for_all()[0]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the whole group; nothing happens if it is over."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return

    def until(self, there: Callable[[], bool]) -> bool:
        """Wait, without a pause, until something is there; False if the process ends before."""
        end = time.monotonic() + SECONDS
        while not there():
            if over(self.pid):
                return there()
            assert time.monotonic() < end, self.log.read_text()[-2000:]
        return True


def over(pid: int) -> bool:
    """Has the process ended? One that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@contextmanager
def starter():
    """A function that starts scripts/train.py with arguments, output at the end of a file; see starter.py."""
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
