"""Two processes give the result of one, also when interrupted and resumed."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lra.config.compose import composed
from lra.launch import job
from lra.paths import ROOT
from lra.records.store import load

# ragged batches, batch norm, an odd number of test examples
RUN = ["task=listops", "model=s4", "scale=smoke", "task.n_test=17", "training.steps=60", "training.validations=6"]
RUN += ["training.schedule=plateau", "training.patience=0"]
PAIR = ["trainer=ddp", "trainer.devices=2"]


def overrides(folder: Path, *more: str) -> list[str]:
    folders = [f"results={folder}/results", f"runs={folder}/runs", f"data.root={folder.parent}/data"]
    return [*RUN, *folders, "trainer.accelerator=cpu", *more]


def start(arguments: list[str], log: Path) -> list[subprocess.Popen]:
    """Two processes, started as a cluster would: not forked, because autograd may refuse to run in a fork."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rendezvous = {"NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pair = []
    for rank in ("0", "1"):
        environment = os.environ | rendezvous | {"LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"}
        with Path(f"{log}{rank}").open("w") as stream:
            command = [sys.executable, str(ROOT / "scripts/train.py"), *arguments]
            pair.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=stream))
    return pair


def finish(pair: list[subprocess.Popen]) -> list[int]:
    return [process.wait(300) for process in pair]


def outcome(folder: Path):
    (path,) = (folder / "results").rglob("*.json")
    (weights,) = (folder / "runs").rglob("model.safetensors")
    return load(path), load_file(weights)


def assert_equal_up_to_rounding(two, one) -> None:
    for name, weight in one[1].items():
        torch.testing.assert_close(two[1][name], weight, rtol=1e-3, atol=1e-4)
    for a, b in zip(two[0].curve, one[0].curve, strict=True):
        assert (a.step, a.val_score) == (b.step, b.val_score)
        assert a.train_score == pytest.approx(b.train_score)
        assert (a.train_loss, a.val_loss) == pytest.approx((b.train_loss, b.val_loss), rel=1e-3)
    # every example counts once, although 17 do not divide evenly
    assert (two[0].test_totals["correct"], two[0].test_totals["examples"]) == (one[0].test_totals["correct"], 17)
    assert two[0].config_hash == one[0].config_hash
    assert any("2 processes" in note for note in two[0].notes)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_process") / "run"
    assert job.one(**composed(overrides(folder, "wandb.mode=disabled"))) == 0
    return outcome(folder)


def wait_for(text: str, log: Path) -> None:
    for _ in range(2400):
        if log.exists() and text in log.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"{log} has no {text!r}")


@pytest.mark.slow
def test_two_resumed_processes_equal_one(tmp_path, one_process):
    folder, log = tmp_path / "two", tmp_path / "log"
    arguments = overrides(folder, *PAIR, "wandb.mode=disabled")
    pair = start(arguments, log)
    wait_for("step 20/60", tmp_path / "log0")
    os.kill(pair[0].pid, signal.SIGTERM)  # only the first
    assert finish(pair) == [130, 0]
    (path,) = (folder / "results").rglob("*.json")
    stopped = load(path)
    assert (stopped.status, "SIGTERM" in stopped.reason) == ("interrupted", True)
    assert 20 <= stopped.steps_done < 60
    assert finish(start(arguments, log)) == [0, 0]
    assert_equal_up_to_rounding(outcome(folder), one_process)
    assert (tmp_path / "log1").read_text() == ""


@pytest.mark.nightly
def test_one_command_starts_two_processes(tmp_path, one_process):
    folder = tmp_path / "two"
    command = [sys.executable, str(ROOT / "scripts/train.py"), *overrides(folder, *PAIR)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("test accuracy") == 1
    assert_equal_up_to_rounding(outcome(folder), one_process)
    run = outcome(folder)[0].wandb
    assert len(list((ROOT / "wandb").glob(f"offline-run-*-{run}"))) == 1


def test_indivisible_batch_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        job.one(**composed(overrides(tmp_path, "trainer=ddp", "trainer.devices=3", "wandb.mode=disabled")))
    assert stop.value.code == 2
    assert "task.batch_size=4: not a multiple of 3 processes" in capsys.readouterr().err.splitlines()[-1]
