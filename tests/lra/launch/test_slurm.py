"""A grid on a real SLURM cluster: submitted once, found again, requeued when its time is up, and whole in the end."""

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
    if reason := slurm_cluster.why_not():
        pytest.skip(reason)
    pytest.importorskip("submitit")
    # sockets want a short path
    with tempfile.TemporaryDirectory(prefix="lra", dir="/tmp") as base, slurm_cluster.cluster(Path(base)):
        yield


def wait_for(what, seconds: float = 300):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.2)
    return found


@pytest.mark.slow
def test_a_grid_is_submitted_once_found_again_requeued_and_ends_whole(cluster, tmp_path, monkeypatch):
    grid = cells(tmp_path)
    console = Console(quiet=True)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    jobs = slurm.Jobs("slurm", tmp_path / "runs/slurm")
    jobs.submit(grid, SETTINGS, console)
    first = dict(jobs.known)
    assert len({job.split("_")[0] for job in first.values()}) == 1  # one array

    # another driver, as after the first has gone
    jobs = slurm.Jobs("slurm", tmp_path / "runs/slurm")
    jobs.submit(grid, SETTINGS, console)
    assert jobs.known == first

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


def test_cells_that_ask_for_the_same_are_one_array():
    grid = [
        GridJob(model, task, 0, "paper", Path("r")) for task in ("listops", "pathx") for model in ("s4", "transformer")
    ]
    found = slurm_options.classes_of(grid, yaml.safe_load((CONFIGS / "launcher/slurm.yaml").read_text()))
    usual, long = found.values()
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
def test_times_are_read_as_slurm_writes_them(text, minutes):
    assert slurm_options.Resources(time=text).minutes == minutes


def test_what_is_missing_or_misspelt_is_one_line(monkeypatch, tmp_path, capsys):
    with pytest.raises(slurm_options.Refused, match="memroy: no such setting"):
        slurm_options.classes_of(cells(tmp_path), {"memroy": 3})
    with pytest.raises(slurm_options.Refused, match="cpus is 'eight': input should be a valid integer"):
        slurm_options.classes_of(cells(tmp_path), {"cpus": "eight"})
    with pytest.raises(slurm_options.Refused, match="time tomorrow"):
        _ = slurm_options.Resources(time="tomorrow").minutes
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        slurm.run(cells(tmp_path), "slurm", Console(quiet=True))
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "lra-all: LAUNCHER=slurm: no sbatch on this machine; start this on a login node of the cluster\n"
    )


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Puts programs of SLURM on the path, by what they do; no others are there."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()

    def put(**does):
        for name, line in does.items():
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


def test_what_slurm_refuses_is_one_line_with_a_cure(programs, tmp_path, capfd):
    pytest.importorskip("submitit")
    programs(srun="true", sbatch=COMPLAINT.format("sbatch"), squeue=COMPLAINT.format("squeue"))
    reason = "invalid partition specified: nowhere; Batch job submission failed: Invalid partition name specified"

    def refused():
        with pytest.raises(SystemExit) as stop:
            slurm.run(cells(tmp_path), "slurm", Console(quiet=True))
        assert stop.value.code == 2
        return capfd.readouterr().err

    assert refused() == f"lra-all: squeue failed: {reason}: SLURM does not answer here; `sinfo` says when it does\n"
    programs(squeue="true")
    cure = "mend configs/launcher/slurm.yaml, which says what a job asks for"
    assert refused() == f"lra-all: sbatch refused: {reason}: {cure}\n"
    programs(sbatch="echo hello")
    assert refused().count("\n") == 1
    (tmp_path / "bin/squeue").unlink()
    assert "squeue cannot be run (No such file or directory): it comes with sbatch" in refused()


@pytest.mark.parametrize("content", ["- a list", "a: b: c", "time: {", "\x07"])
def test_a_launcher_that_is_no_list_of_settings_is_one_line(content, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm_options, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(slurm_options, "ROOT", tmp_path)
    file = tmp_path / "configs/launcher/mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(slurm_options.Refused, match=r"^configs/launcher/mine.yaml: [^\n]+$"):
        slurm_options.settings_of("mine")


def test_a_queue_that_does_not_answer_for_a_while_ends_nothing(tmp_path, monkeypatch):
    (cell,) = cells(tmp_path, ["fnet"])
    monkeypatch.setattr(slurm.shutil, "which", lambda name: "/bin/true")
    jobs = slurm.Jobs("slurm", tmp_path)
    answers: list = [slurm_options.Refused("squeue failed: timed out"), {"7": "pending (Priority)"}, {}]
    jobs.known = {str(cell.path): "7"}
    said = []

    def queue():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(jobs, "queue", queue)
    monkeypatch.setattr(slurm, "settle", lambda cell, status: said.append(len(answers)))
    screen = io.StringIO()
    assert jobs.watch([cell], Console(file=screen), 0)
    assert said == [0]  # not before the queue has answered twice
    assert "squeue failed: timed out; asking again" in screen.getvalue()
    assert jobs.overview([cell], {"7": "pending (Priority)"}, Counter(ok=2), 3.0).title.plain == (
        "2 ok, 1 pending (Priority) (3 s)"
    )
