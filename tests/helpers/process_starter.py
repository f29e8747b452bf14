"""Starts scripts/train.py in processes forked from one that has imported the libraries.

    {"arguments": [...], "log": "...", "largest_file": null, "environment": {}, "world": 1} -> {"pids": [123]}
    {"wait": [123]}                    -> {"statuses": [-9]}

Reads one JSON object per line from stdin and answers with one line on stdout. Each run has its own process group, as
from a shell, and starts without ten seconds of imports. `world` is the number of processes of a run, started as a
cluster does, with rank and address in the environment.
"""

import importlib
import json
import os
import resource
import runpy
import socket
import sys
from pathlib import Path

LIBRARIES = (
    "data.generators.listops_loops",
    "data.listops",
    "lra.training.run",
    "models.s4",
    "models.transformer",
    "lra.launch.job",
)
TRAIN = Path(__file__).resolve().parents[2] / "scripts" / "train.py"


def train(arguments: list[str], log: str, largest_file: int | None, environment: dict[str, str]) -> None:
    """Become a training process. largest_file: limit of bytes per file, to simulate a full disk."""
    os.environ.update(environment)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(out, stream)
    sys.stdin.close()
    sys.argv = [str(TRAIN), *arguments]
    status = 1
    try:
        runpy.run_path(str(TRAIN), run_name="__main__")
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def start(world: int, environment: dict[str, str], **request) -> list[int]:
    """The processes of one run, all in the process group of the first."""
    pids: list[int] = []
    if world > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        environment = environment | address | {"NODE_RANK": "0", "WORLD_SIZE": str(world)}
    for rank in range(world):
        own = environment | ({"LOCAL_RANK": str(rank)} if world > 1 else {})
        pid = os.fork()
        # in parent and child, since either may be first
        os.setpgid(pid, pids[0] if pids else pid)
        if pid == 0:
            train(environment=own, **request)
        pids.append(pid)
    return pids


def main() -> None:
    sys.path[:0] = [str(TRAIN.parents[1]), str(TRAIN.parent)]
    for name in LIBRARIES:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            ended = [os.waitpid(pid, 0)[1] for pid in request["wait"]]
            print(json.dumps({"statuses": [os.waitstatus_to_exitcode(status) for status in ended]}), file=answers)
            continue
        print(json.dumps({"pids": start(**request)}), file=answers)


if __name__ == "__main__":
    main()
