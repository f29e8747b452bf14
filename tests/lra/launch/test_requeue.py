"""A SLURM job that ends early, for any reason, is requeued and resumes."""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from helpers import slurm_cluster
from lra.launch import slurm
from lra.launch.grid import GridJob
from lra.paths import ROOT

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1500)]
# jobs in the second partition preempt those in the first
PARTITIONS = [
    "PartitionName=debug Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime={grace}",
    "PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF",
]
PREEMPTION = {"PreemptType": "preempt/partition_prio", "PreemptMode": "REQUEUE"}
QUIET = Console(quiet=True)
LONG = "100000"


@contextmanager
def cluster(grace: int = 0) -> Iterator[dict[str, subprocess.Popen]]:
    if reason := slurm_cluster.unavailable_reason():
        pytest.skip(reason)
    pytest.importorskip("submitit")
    partitions = [line.format(grace=grace) for line in PARTITIONS]
    # paths of sockets must be short
    with (
        tempfile.TemporaryDirectory(prefix="lra", dir="/tmp") as base,
        slurm_cluster.cluster(Path(base), *partitions, **PREEMPTION) as nodes,
    ):
        yield nodes


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


def cell_of(folder: Path, steps: str = LONG) -> GridJob:
    folders = [f"runs={folder}/runs", f"data.root={folder}/data", "wandb.mode=disabled", "trainer.accelerator=cpu"]
    more = (*folders, f"training.steps={steps}", "trainer.checkpoint_seconds=0.5")
    return GridJob("fnet", "listops", 0, "smoke", folder / "results", more)


def submitted(cell: GridJob, folder: Path, **settings) -> tuple[slurm.Jobs, str]:
    """Submit the cell; the jobs and its number."""
    usual = {"time": "0:30:00", "gpus": 0, "cpus": 1, "memory": 1, "warning": 60}
    jobs = slurm.Jobs("slurm", folder / "runs/slurm")
    jobs.submit([cell], usual | settings, QUIET)
    return jobs, jobs.numbers[str(cell.path)]


def scontrol(*words: str) -> str:
    done = subprocess.run(["scontrol", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(what: Callable, seconds: float = 500):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.2)
    return found


def checkpointed(cell: GridJob) -> bool:
    return bool(list(cell.log.parent.glob("*/last.ckpt")))


def steps(cell: GridJob, words: str) -> list[int]:
    """Numbers of steps that follow these words in the log."""
    return [int(n) for n in re.findall(words + r" step (\d+)", cell.log.read_text())]


def resumed_at(cell: GridJob) -> list[int]:
    return wait_for(lambda: steps(cell, "goes on from"))


def restarts(job: str) -> int:
    return int(re.findall(r"Restarts=(\d+)", scontrol("--oneliner", "show", "job", job))[0])


def end(cell: GridJob, jobs: slurm.Jobs, job: str) -> None:
    """Cancel the job; its record is interrupted, and it can be submitted again."""
    subprocess.run(["scancel", job], check=True)
    assert jobs.watch([cell], QUIET, 0.2)
    assert cell.record().status in ("interrupted", "crashed")
    assert not cell.done
    assert job not in jobs.queue()


def urgent_job() -> None:
    """Preempt both nodes for a moment."""
    subprocess.run(
        ["sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"],
        check=True,
        capture_output=True,
    )


def shorten(job: str) -> None:
    """Reduce the time limit to end in about a minute. SLURM checks every half minute."""
    known = scontrol("--oneliner", "show", "job", job)
    hours, minutes, _ = re.findall(r"RunTime=(\d+):(\d+):(\d+)", known)[0]
    scontrol("update", f"jobid={job}", f"timelimit={60 * int(hours) + int(minutes) + 2}")


# submitit counts every end of such a short job as a timeout
LIMIT = {"time": "0:09:00", "warning": 60}


def test_resumes_after_the_time_limit(tmp_path):
    with cluster():
        cell = cell_of(tmp_path)
        jobs, job = submitted(cell, tmp_path, **LIMIT)
        wait_for(lambda: checkpointed(cell))
        shorten(job)
        wait_for(lambda: restarts(job) == 1)
        # a slow machine must not reach the limit again
        scontrol("update", f"jobid={job}", "timelimit=60")
        (first, *_) = resumed_at(cell)
        assert first == steps(cell, "stopped by SIGTERM at")[0] > 0
        end(cell, jobs, job)


def test_too_many_time_limits_are_interrupted(tmp_path):
    with cluster():
        cell = cell_of(tmp_path)
        jobs, job = submitted(cell, tmp_path, **LIMIT, requeues=0)
        wait_for(lambda: checkpointed(cell))
        shorten(job)
        assert jobs.watch([cell], QUIET, 0.2)
        record = cell.record()
        assert record.status == "interrupted"
        assert record.reason.startswith("stopped by SIGTERM at step")
        assert record.steps_done > 0


@pytest.mark.parametrize("grace", [0, 45])
def test_resumes_after_preemption(tmp_path, grace):
    """In 45 s of grace the run saves and ends; its job must wait for the end of the grace."""
    with cluster(grace):
        cell = cell_of(tmp_path)
        jobs, job = submitted(cell, tmp_path)
        wait_for(lambda: checkpointed(cell))
        urgent_job()
        (first, *_) = resumed_at(cell)
        assert restarts(job) == 1
        assert first > 0
        if grace:
            assert first == steps(cell, "stopped by SIGTERM at")[0]
        end(cell, jobs, job)


def test_resumes_after_scontrol_requeue(tmp_path):
    with cluster():
        cell = cell_of(tmp_path)
        jobs, job = submitted(cell, tmp_path)
        wait_for(lambda: checkpointed(cell))
        scontrol("requeue", job)
        assert resumed_at(cell)[0] > 0
        assert restarts(job) == 1
        end(cell, jobs, job)


def test_resumes_on_another_node(tmp_path):
    with cluster() as nodes:
        cell = cell_of(tmp_path)
        jobs, job = submitted(cell, tmp_path)
        wait_for(lambda: checkpointed(cell))
        (node,) = re.findall(r" NodeList=(\S+)", scontrol("--oneliner", "show", "job", job))
        slurm_cluster.fail(node, nodes[node])
        assert resumed_at(cell)[0] > 0
        assert restarts(job) == 1
        (other,) = re.findall(r" NodeList=(\S+)", scontrol("--oneliner", "show", "job", job))
        assert {node, other} == set(nodes)
        assert "stopped by" not in cell.log.read_text()
        end(cell, jobs, job)


def test_job_on_two_nodes_is_requeued_as_one(tmp_path):
    with cluster():
        cell = cell_of(tmp_path, "400")
        # both nodes are this machine, without names
        setup = ["export MASTER_ADDR=127.0.0.1"]
        jobs, job = submitted(cell, tmp_path, nodes=2, setup=setup)
        wait_for(lambda: checkpointed(cell))
        subprocess.run(["scancel", "--signal=USR2", job], check=True)
        assert jobs.watch([cell], QUIET, 0.5)
        record = cell.record()
        assert (record.status, record.steps_done) == ("ok", 400)
        assert "2 processes, each with an equal share of every batch" in record.notes
        assert steps(cell, "goes on from")[0] == steps(cell, "stopped by SIGTERM at")[0] > 0
