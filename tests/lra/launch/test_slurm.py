"""Grids on a real SLURM cluster, and errors of SLURM and of the launcher's settings."""

import io
import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from helpers import slurm_cluster
from lra.errors import UserError
from lra.launch import slurm, slurm_options
from lra.launch.grid import GridJob
from lra.paths import CONFIGS, ROOT

SETTINGS = {"time": "0:30:00", "gpus": 0, "cpus": 3, "memory": 1, "warning": 60}


def cells(folder: Path, models=("fnet", "linear_transformer")) -> list[GridJob]:
    folders = [f"runs={folder}/runs", f"data.root={folder}/data", "wandb.mode=disabled", "trainer.accelerator=cpu"]
    more = (*folders, "training.steps=400", "trainer.checkpoint_seconds=0.5")
    return [GridJob(model, "listops", 0, "smoke", folder / "results", more) for model in models]


@pytest.fixture
def cluster():
    if reason := slurm_cluster.unavailable_reason():
        pytest.skip(reason)
    pytest.importorskip("submitit")
    # paths of sockets must be short
    with tempfile.TemporaryDirectory(prefix="lra", dir="/tmp") as base, slurm_cluster.cluster(Path(base)):
        yield


def wait_for(what, seconds: float = 300):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.2)
    return found


@pytest.mark.slow
def test_grid_is_submitted_once_and_requeued(cluster, tmp_path, monkeypatch):
    grid = cells(tmp_path)
    console = Console(quiet=True)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    jobs = slurm.Jobs("slurm", tmp_path / "runs/slurm")
    jobs.submit(grid, SETTINGS, console)
    first = dict(jobs.numbers)
    assert len({job.split("_")[0] for job in first.values()}) == 1  # one array

    # a second driver finds the jobs
    jobs = slurm.Jobs("slurm", tmp_path / "runs/slurm")
    jobs.submit(grid, SETTINGS, console)
    assert jobs.numbers == first

    watching = threading.Thread(target=lambda: jobs.watch(grid, console, 0.5), daemon=True)
    watching.start()
    stopped = grid[0]
    wait_for(lambda: list(stopped.log.parent.glob("*/last.ckpt")))
    subprocess.run(["scancel", "--signal=USR2", first[str(stopped.path)]], check=True)
    watching.join(250)
    assert not watching.is_alive()
    assert [cell.record().status for cell in grid] == ["ok", "ok"]
    assert "stopped by SIGTERM" in stopped.log.read_text()
    assert "stopped by" not in grid[1].log.read_text()
    assert stopped.record().steps_done == 400


def test_same_resources_are_one_array():
    grid = [
        GridJob(model, task, 0, "paper", Path("r")) for task in ("listops", "pathx") for model in ("s4", "transformer")
    ]
    groups = slurm_options.group_by_resources(grid, yaml.safe_load((CONFIGS / "launcher/slurm.yaml").read_text()))
    usual, long = groups
    assert [cell.task for cell in usual[1] + long[1]] == ["listops", "listops", "pathx", "pathx"]
    assert (usual[0].minutes, long[0].minutes) == (24 * 60, 48 * 60)
    asked = long[0].parameters()
    assert (asked["mem"], asked["gpus_per_node"], asked["ntasks_per_node"], asked["cpus_per_task"]) == (
        "65536M",
        1,
        1,
        8,
    )
    assert asked["signal_delay_s"] == 120
    assert "partition" not in asked


@pytest.mark.parametrize(
    ("text", "minutes"), [("2-01:00:00", 49 * 60), ("0:30", 30), (86400, 24 * 60), ("08:30:00", 510)]
)
def test_times_in_the_formats_of_slurm(text, minutes):
    assert slurm_options.Resources(time=text).minutes == minutes


def test_wrong_settings_are_one_line(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="memroy: no such setting"):
        slurm_options.group_by_resources(cells(tmp_path), {"memroy": 3})
    with pytest.raises(ValueError, match="cpus is 'eight': input should be a valid integer"):
        slurm_options.group_by_resources(cells(tmp_path), {"cpus": "eight"})
    with pytest.raises(UserError, match="time tomorrow"):
        _ = slurm_options.Resources(time="tomorrow").minutes
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="no sbatch on this machine; hint: start this on a login node"):
        slurm.run(cells(tmp_path), "slurm", Console(quiet=True))


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Puts fake programs of SLURM on the path, and no others."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()

    def put(**scripts):
        for name, line in scripts.items():
            file = tmp_path / "bin" / name
            file.write_text(f"#!/bin/sh\n{line}\n")
            file.chmod(0o755)

    return put


COMPLAINT = """/bin/cat >&2 <<'END'
{0}: error: resolve: Unknown host
{0}: error: invalid partition specified: nowhere
{0}: error: Batch job submission failed: Invalid partition name specified
END
exit 1"""


def test_errors_of_slurm_are_one_line_with_a_hint(programs, tmp_path):
    pytest.importorskip("submitit")
    programs(srun="true", sbatch=COMPLAINT.format("sbatch"), squeue=COMPLAINT.format("squeue"))
    reason = "invalid partition specified: nowhere; Batch job submission failed: Invalid partition name specified"

    def refused():
        with pytest.raises(UserError) as error:
            slurm.run(cells(tmp_path), "slurm", Console(quiet=True))
        return str(error.value)

    assert refused().startswith(f"squeue failed: {reason}; hint: ")
    programs(squeue="true")
    assert refused().startswith(f"sbatch refused: {reason}; hint: configs/launcher/slurm.yaml")
    programs(sbatch="echo hello")
    assert "\n" not in refused()
    (tmp_path / "bin/squeue").unlink()
    assert "squeue cannot be run (No such file or directory); hint: " in refused()


@pytest.mark.parametrize("content", ["- a list", "a: b: c", "time: {", "\x07"])
def test_broken_launcher_file_is_one_line(content, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm_options, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(slurm_options, "ROOT", tmp_path)
    file = tmp_path / "configs/launcher/mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(UserError, match=r"^configs/launcher/mine.yaml: [^\n]+$"):
        slurm_options.launcher_settings("mine")


def test_unanswered_queue_is_asked_again(tmp_path, monkeypatch):
    (cell,) = cells(tmp_path, ["fnet"])
    monkeypatch.setattr(slurm.shutil, "which", lambda name: "/bin/true")
    jobs = slurm.Jobs("slurm", tmp_path)
    answers: list = [UserError("squeue failed: timed out"), {"7": "pending (Priority)"}, {}]
    jobs.numbers = {str(cell.path): "7"}
    settled = []

    def queue():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(jobs, "queue", queue)
    monkeypatch.setattr(slurm, "settle", lambda cell, status: settled.append(len(answers)))
    screen = io.StringIO()
    assert jobs.watch([cell], Console(file=screen), 0)
    assert settled == [0]  # after the queue has answered twice
    assert "squeue failed: timed out; asking again" in screen.getvalue()
    assert jobs.overview([cell], {"7": "pending (Priority)"}, Counter(ok=2), 3.0).title.plain == (
        "2 ok, 1 pending (Priority) (3 s)"
    )
