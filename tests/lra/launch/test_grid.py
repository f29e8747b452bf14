"""A grid loses only the cell that fails, reports how each ended, and gives the same results after being killed."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from helpers.records import replace, scored
from lra.config.compose import composed
from lra.launch import job, local
from lra.launch.grid import TAKEN, GridJob, exit_reason, last_line, outcome, outdated, settle
from lra.launch.lock import acquire
from lra.launch.sweep import Sweep
from lra.paths import ROOT
from lra.records.record import config_hash
from lra.records.store import load
from scripts import demo, lra_all, train

MODELS = ("fnet", "linear_transformer")


def cell(folder: Path, model: str = "fnet", *more: str, task: str = "listops") -> GridJob:
    folders = [f"runs={folder}/runs", f"data.root={folder}/data", "wandb.mode=disabled", "trainer.accelerator=cpu"]
    return GridJob(model, task, 0, "smoke", folder / "results", (*folders, *more))


def comparable(record) -> dict:
    """Fields that are equal in two runs of one cell."""
    kept = ("status", "task", "model", "seed", "variant", "config_hash", "parameters", "data", "steps_done")
    scores = ("test_totals", "test_score", "val_score", "selection", "examples")
    points = [(p.step, p.train_loss, p.val_loss, p.val_score) for p in record.curve]
    return {name: getattr(record, name) for name in (*kept, *scores)} | {"curve": points}


def wait_for(found, what: str):
    for _ in range(1200):
        with contextlib.suppress(ValueError, OSError):
            if result := found():
                return result
        time.sleep(0.05)
    raise AssertionError(f"{what} never came")


@pytest.mark.nightly
def test_killed_grid_gives_the_same_records(tmp_path):
    # the same number of threads in both
    more = ["training.steps=100", "trainer.threads=1"]
    undisturbed, killed = tmp_path / "one", tmp_path / "two"
    for model in MODELS:
        assert job.one(**composed(cell(undisturbed, model, *more).words)) == 0

    cells = [cell(killed, model, *more, "trainer.checkpoint_seconds=0.5") for model in MODELS]
    names = ["--scale=smoke", "--tasks=listops", f"--models={','.join(MODELS)}"]
    folders = [f"--results={cells[0].results}", f"--tables={killed}/tables"]
    command = [sys.executable, str(ROOT / "scripts/lra_all.py"), *names, *folders, *cells[0].overrides]
    with (tmp_path / "output").open("w") as output:
        grid = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
    try:
        for one, end in zip(cells, (os.kill, os.killpg), strict=True):
            folder = one.log.parent
            wait_for(lambda folder=folder: list(folder.glob("*/last.ckpt")), f"a checkpoint of {one}")
            (pid,) = folder.glob("*/pid")
            end(int(pid.read_text()) if end is os.kill else grid.pid, signal.SIGKILL)
            if end is os.kill:
                record = wait_for(lambda one=one: (r := one.record()).status == "crashed" and r, f"a record of {one}")
                assert "killed by SIGKILL" in record.reason
                assert one.log.name in record.reason
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(grid.pid, signal.SIGKILL)
        grid.wait()
    assert cells[1].record().status == "running"

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 exist, 2 to do" in done.stderr
    for one in cells:
        other = cell(undisturbed, one.model, *more)
        assert comparable(one.record()) == comparable(other.record())
        assert one.record().status == "ok"
    again = subprocess.run([*command, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "2 exist, 0 to do" in again.stderr
    assert again.stdout == ""


def test_early_death_leaves_a_record_with_reason_and_log(tmp_path):
    refused = cell(tmp_path, "fnet", "data.source=/no/such/folder", task="text")
    refused.log.parent.mkdir(parents=True)
    refused.log.write_text("\x1b[1mpreparing\x1b[0m\ntrain.py: source=/no/such/folder: no such folder\n\n")
    record = settle(refused, 2)
    assert (record.status, record.test_score, record.steps_done) == ("crashed", None, 0)
    assert record.reason.startswith("refused: train.py: source=")
    assert "0.log" in record.reason
    assert record == load(refused.path)
    assert not refused.done
    assert record.path(refused.results) == refused.path


@pytest.mark.parametrize(("task", "source", "kind"), [("listops", "auto", "generated"), ("text", "auto", "official")])
def test_record_of_an_early_death_names_its_data(task, source, kind, tmp_path):
    assert settle(cell(tmp_path, "fnet", f"data.source={source}", task=task), 1).data.kind == kind


def test_exit_status_in_words():
    reasons = {None: "ended unseen", 0: "ended with status 0", 1: "ended with status 1", 2: "refused"}
    reasons |= {130: "stopped before it began", -9: "killed by SIGKILL"}
    assert {status: exit_reason(status) for status in reasons} == reasons


def test_running_record_of_a_dead_process_is_crashed(tmp_path):
    one = cell(tmp_path)
    settle(one, -signal.SIGSEGV)
    record = replace(one.record(), status="running", reason=None)
    record.write(one.path)
    assert settle(one, -signal.SIGSEGV).reason.startswith("killed by SIGSEGV")
    # results are never overwritten
    correct = scored(1, 2)
    replace(record, status="ok", **correct).write(one.path)
    assert settle(one, 1).status == "ok"
    assert one.done


@pytest.mark.parametrize("content", ['{"schema": 3, "task"', "<<<<<<< HEAD", "{}", ""])
def test_damaged_record_is_named_and_left_alone(content, tmp_path):
    broken = cell(tmp_path)
    broken.path.parent.mkdir(parents=True)
    broken.path.write_text(content)
    assert not broken.done
    assert settle(broken, 2) is None
    assert broken.path.read_text() == content
    line = outcome(broken, None)
    assert line.startswith(f"{broken.path}: ")
    assert "restore the file, or move it away" in line
    assert line.endswith(f"(log: {broken.shown_log})")


def test_variants_have_their_own_records(tmp_path):
    plain, other = cell(tmp_path), cell(tmp_path, "fnet", "training.steps=6")
    assert plain.path.name == "0.json"
    assert other.path.name != "0.json"
    assert other.log.stem == other.path.stem


def test_overview_has_counts_and_time_left(tmp_path):
    cells = [cell(tmp_path), cell(tmp_path, "s4"), cell(tmp_path, "s4d")]
    pool = local.WorkerPool(cells, 1, Console(), {cells[0]: 10.0, cells[1]: 20.0, cells[2]: 40.0}.get)
    assert pool.time_left() == ", about 70 s left"
    pool.waiting.pop(0)
    pool.done["ok"] += 1
    pool.durations.append((20.0, 10.0))  # half as fast as expected
    assert pool.time_left() == ", about 2 min left"
    assert pool.overview().title.plain == "0 running, 2 waiting, 1 ok, about 2 min left"
    log = tmp_path / "log"
    log.write_text("first\n\x1b[31mS4 on listops: step 3/4 loss 1\x1b[0m\n\n")
    assert last_line(log) == "S4 on listops: step 3/4 loss 1"


def test_threads_without_cpu_affinity(monkeypatch):
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert local.WorkerPool([], 2, Console(), lambda cell: None).threads == 3


def test_cell_of_another_process_keeps_record_and_log(tmp_path, monkeypatch):
    elsewhere = cell(tmp_path)
    settle(elsewhere, 1)
    running = replace(elsewhere.record(), status="running", reason=None)
    running.write(elsewhere.path)
    monkeypatch.setenv("LRA_PATIENCE", "0")
    elsewhere.log.parent.mkdir(parents=True)
    elsewhere.log.write_text("step 3/4\n")
    other = acquire(elsewhere.log.with_suffix(".lock"))
    with pytest.raises(SystemExit) as stop:
        local.lock_log(elsewhere.log)
    assert stop.value.code == TAKEN
    assert elsewhere.log.read_text() == "step 3/4\n"
    pool = local.WorkerPool([elsewhere], 1, Console(file=(screen := io.StringIO())), lambda cell: None)
    one = local.Running(SimpleNamespace(exitcode=TAKEN), 0)
    pool.running[pool.waiting.pop(0)] = one
    pool._end(elsewhere, one)
    assert "another process trains it (log: " in " ".join(screen.getvalue().split())
    assert elsewhere.record() == running
    other.release()
    local.lock_log(elsewhere.log).release()
    assert elsewhere.log.read_text() == ""


@pytest.mark.parametrize(
    ("visible", "used"),
    [("2,3", ["2", "3", "2"]), ("GPU-8932f937", ["GPU-8932f937"] * 3), ("-1", [None] * 3), ("", [None] * 3)],
)
def test_cells_are_spread_over_visible_gpus(visible, used, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    given = []

    def process(*, args, **_):
        given.append(args[-1])
        return SimpleNamespace(start=lambda: None)

    pool = local.WorkerPool([], 3, Console(), lambda cell: None)
    pool.context = SimpleNamespace(Process=process)
    for slot in range(3):
        pool._start(cell(tmp_path), slot)
    assert given == used


def test_time_left_from_the_steps_of_a_job(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(local.time, "monotonic", lambda: now[0])
    one, log = local.Running(None, 0, since=100.0), tmp_path / "log"

    def seconds(line: str, at: float) -> float | None:
        now[0] = at
        log.write_text(line + "\n")
        one.read(log)
        return one.seconds

    assert seconds("S4 (40,000 parameters) on listops", 105) is None
    # steps before a resume took no time here
    assert seconds("S4 on listops: goes on from step 400/1000", 110) is None
    assert seconds("S4 on listops: step 500/1000 loss 1", 130) == 30 + 0.2 * 500
    assert one.line == "loss 1"
    assert seconds("S4 on listops: step 500/1000 loss 1", 140) == 30 + 0.2 * 500
    # training after pretraining starts at 0 again
    assert seconds("S4 on listops: step 10/1000", 141) is None
    # more slots do not speed up a single cell
    pool = local.WorkerPool([cell(tmp_path)], 4, Console(), lambda cell: None)
    assert pool.time_left() == ""
    pool.running[pool.waiting.pop(0)] = one
    assert pool.time_left() == ""
    assert seconds("S4 on listops: step 20/1000", 142) == 42 + 0.1 * 980
    assert pool.time_left() == ", about 2 min left"


def test_overview_without_a_terminal_is_a_line(tmp_path, monkeypatch):
    screen = io.StringIO()
    pool = local.WorkerPool([cell(tmp_path)], 1, Console(file=screen), lambda cell: None)
    one = local.Running(None, 0)
    one.steps = 3, 4
    pool.running[pool.waiting.pop(0)] = one
    pool._print_overview()
    assert screen.getvalue() == ""
    pool.printed -= local.HEARTBEAT + 1
    pool._print_overview()
    pool._print_overview()
    assert screen.getvalue() == "1 running, 0 waiting: fnet on listops, seed 0, step 3/4\n"


def test_failed_cells_are_named_and_status_is_1(tmp_path, monkeypatch, capfd):
    refused = cell(tmp_path, "fnet", "data.source=/no/such/folder", task="text")
    refused.log.parent.mkdir(parents=True)
    refused.log.write_text("train.py: source=/no/such/folder: no such folder [/red]\n")

    def run(pool) -> bool:
        settle(refused, 2)
        return True

    monkeypatch.setattr(local.WorkerPool, "run", run)
    words = ["--scale=smoke", "--tasks=text", "--models=fnet", f"--results={refused.results}", f"--tables={tmp_path}/t"]
    monkeypatch.setattr(sys, "argv", ["lra_all.py", *words, *refused.overrides])
    assert lra_all.main() == 1
    printed = capfd.readouterr().err
    assert "1 of 1 cells have no result:" in printed
    assert "fnet on text, seed 0: crashed: refused: train.py: source=" in printed
    assert f"no such folder [/red] (log: {refused.log})" in printed
    record = replace(refused.record(), status="oom", reason="CUDA out of memory")
    assert outcome(refused, record) == f"oom: CUDA out of memory (log: {refused.log})"


def test_demo_waits_for_the_grid_after_ctrl_c(monkeypatch):
    class Child:
        def __init__(self, *words, **more):
            self.answers = [KeyboardInterrupt, 130]

        def wait(self):
            if (answer := self.answers.pop(0)) is KeyboardInterrupt:
                raise KeyboardInterrupt
            return answer

    monkeypatch.setattr(demo.subprocess, "Popen", Child)
    monkeypatch.setattr(sys, "argv", ["demo.py", "--scale=smoke"])
    assert demo.main() == 130


def test_sweep_continues_after_a_failure(tmp_path, monkeypatch):
    one = cell(tmp_path)
    arguments = ["-m", "task=listops", "model=fnet", "seed=0,1", "scale=smoke", "training.steps=4,0.5", *one.overrides]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, f"results={one.results}"])
    monkeypatch.setattr(train, "sweep", Sweep())
    train.main()
    assert [("seed=0" in words, "training.steps=0.5" in words) for words in train.sweep.failed] == [
        (True, True),
        (False, True),
    ]
    assert sorted(load(p).seed for p in one.results.rglob("*.json") if load(p).status == "ok") == [0, 1]
    assert sys.argv[1] == "-m"


def test_records_of_other_settings_are_outdated(tmp_path):
    cells = [cell(tmp_path, model) for model in MODELS]
    for one in cells:
        assert settle(one, None) is not None
    assert outdated(cells) == []
    record = cells[1].record()
    config = {**record.config, "training": {**record.config["training"], "steps": 7}}
    replace(record, config=config, config_hash=config_hash(config)).write(cells[1].path)
    assert outdated(cells) == [cells[1]]
