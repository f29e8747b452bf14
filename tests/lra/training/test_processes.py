"""Two processes that share every batch give what one gives, also when they are stopped on the way."""

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
CELL = ["task=listops", "model=s4", "scale=smoke", "task.n_test=17", "training.steps=60", "training.validations=6"]
PAIR = ["trainer=ddp", "trainer.devices=2"]


def words(folder: Path, *more: str) -> list[str]:
    folders = [f"results={folder}/results", f"runs={folder}/runs", f"data.root={folder.parent}/data"]
    return [*CELL, *folders, "trainer.accelerator=cpu", *more]


def start(arguments: list[str], log: Path) -> list[subprocess.Popen]:
    """Two processes, as a cluster would start them: no forks, in which autograd may refuse to run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pair = []
    for rank in ("0", "1"):
        environment = os.environ | meeting | {"LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"}
        with Path(f"{log}{rank}").open("w") as stream:
            command = [sys.executable, str(ROOT / "scripts/train.py"), *arguments]
            pair.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=stream))
    return pair


def finish(pair: list[subprocess.Popen]) -> list[int]:
    return [process.wait(120) for process in pair]


def outcome(folder: Path):
    (path,) = (folder / "results").rglob("*.json")
    (weights,) = (folder / "runs").rglob("model.safetensors")
    return load(path), load_file(weights)


def agree(two, one) -> None:
    """Records and weights are equal but for rounding."""
    for name, weight in one[1].items():
        torch.testing.assert_close(two[1][name], weight, rtol=1e-3, atol=1e-4)
    for a, b in zip(two[0].curve, one[0].curve, strict=True):
        assert (a.step, a.val_accuracy) == (b.step, b.val_accuracy)
        assert a.train_accuracy == pytest.approx(b.train_accuracy)
        assert (a.train_loss, a.val_loss) == pytest.approx((b.train_loss, b.val_loss), rel=1e-3)
    # every example once, although 17 are not shared out evenly
    assert (two[0].test_correct, two[0].n_test) == (one[0].test_correct, 17)
    assert two[0].config_hash == one[0].config_hash
    assert any("2 processes" in note for note in two[0].notes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "one"
    assert job.one(**composed(words(folder, "wandb.mode=disabled"))) == 0
    return outcome(folder)


def wait_for(text: str, log: Path) -> None:
    for _ in range(600):
        if log.exists() and text in log.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"{log} never said {text!r}")


@pytest.mark.slow
def test_two_processes_stopped_and_resumed_give_what_one_gives(tmp_path, alone):
    folder, log = tmp_path / "two", tmp_path / "log"
    arguments = words(folder, *PAIR, "wandb.mode=disabled")
    pair = start(arguments, log)
    wait_for("step 20/60", tmp_path / "log0")
    os.kill(pair[0].pid, signal.SIGTERM)  # the first alone
    assert finish(pair) == [130, 0]
    (path,) = (folder / "results").rglob("*.json")
    stopped = load(path)
    assert (stopped.status, "SIGTERM" in stopped.reason) == ("interrupted", True)
    assert 20 <= stopped.steps_done < 60
    assert finish(start(arguments, log)) == [0, 0]
    agree(outcome(folder), alone)
    assert (tmp_path / "log1").read_text() == ""


@pytest.mark.nightly
def test_one_command_starts_both_processes_and_leaves_one_record_and_one_wandb_run(tmp_path, alone):
    folder = tmp_path / "two"
    command = [sys.executable, str(ROOT / "scripts/train.py"), *words(folder, *PAIR)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("test accuracy") == 1
    agree(outcome(folder), alone)
    made = outcome(folder)[0].wandb
    assert len(list((ROOT / "wandb").glob(f"offline-run-*-{made}"))) == 1


def test_a_batch_that_cannot_be_shared_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        job.one(**composed(words(tmp_path, "trainer=ddp", "trainer.devices=3", "wandb.mode=disabled")))
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("train.py: task.batch_size=4: not a multiple of 3 processes")
