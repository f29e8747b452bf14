"""The example task of data/README.md: its files and commands work as printed."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate

import lra.config.compose  # noqa: F401 (registers the resolvers of the configuration)
from data import verify
from data.prepared import DataError
from helpers.documented_files import write_files
from lra.nn.classifier import Classifier
from lra.objectives.objective import objective_of
from lra.paths import ROOT
from lra.training.learner import Learner
from models.s4 import S4

PAGE = (ROOT / "data" / "README.md").read_text()
SECTION = PAGE.partition("## Add a task")[2].partition("## ")[0]
COMMANDS = re.findall(r"^ {4}(\.venv/bin/python .*)$", SECTION, re.M)


def write_example(folder: Path) -> None:
    assert write_files(SECTION, folder) == ["data/majority.py", "configs/task/majority.yaml"]


def test_example_task_gives_batches(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    write_example(tmp_path)
    spec = importlib.util.spec_from_file_location("data.majority", tmp_path / "data/majority.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "data.majority", module)
    with hydra.initialize_config_dir(str(tmp_path / "configs"), version_base="1.3"):
        words = ["task=majority", "model=s4", "scale=mini", f"data.root={tmp_path}/prepared"]
        task = instantiate(hydra.compose("train", overrides=words).task)
    task.prepare_data()
    task.setup()
    assert (task.kind, task.counts) == ("generated", {"train": 4000, "val": 1000, "test": 1000})
    assert 0.5 <= task.trivial_score("test") < 0.55
    batch = next(iter(task.train_dataloader()))
    assert batch.x.shape == (32, 63)
    assert ((batch.x == 2).sum(1) > 31).long().equal(batch.y)
    assert task.example("test", 0)[0].strip("ab") == ""
    numbers = verify.statistics(task)
    assert numbers["length"] == "63"
    assert "grey" not in " ".join(numbers)  # these are letters
    with pytest.raises(DataError, match="source=toy: majority has no toy data"):
        module.Majority(batch_size=4, root=tmp_path, source="toy").prepare_data()


def test_regression_example_trains(tmp_path, monkeypatch):
    """The task of "Add a regression task" beats its trivial score in a short training."""
    section = PAGE.partition("## Add a regression task")[2].partition("\n## ")[0]
    assert write_files(section, tmp_path) == ["data/level.py"]
    spec = importlib.util.spec_from_file_location("data.level", tmp_path / "data/level.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    task = module.Level(batch_size=50, root=tmp_path / "prepared")
    task.prepare_data()
    task.setup()
    assert task.trivial_score("test") == pytest.approx(1.0, abs=0.2)
    assert any("SHA-256" in line for line in verify.verify(task))
    torch.manual_seed(0)
    net = Classifier(task.spec, d_model=16, n_layers=1, mixer=lambda d_model, max_len: S4(d_model, max_len, d_state=4))
    learner = Learner(net, optimizer={"lr": 0.01}, objective=objective_of("regression"), schedule="constant", warmup=0)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(accelerator="cpu", max_steps=80, **quiet)
    trainer.fit(learner, datamodule=task)
    trainer.test(learner, datamodule=task, verbose=False)
    totals = learner.results["test"]["totals"]
    assert totals["examples"] == totals["independent"] == 500
    assert objective_of("regression").beats_trivial(totals, task.trivial_score("test"))


@pytest.mark.nightly
def test_commands_succeed_in_a_copy(tmp_path):
    for name in ("configs", "data", "lra", "models", "scripts", "results/published", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "prepared", "raw", "downloads")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    write_example(tmp_path)
    assert len(COMMANDS) == 3
    for command in COMMANDS:
        words = [sys.executable, *shlex.split(command)[1:]]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stderr
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/test_configs.py"]
    done = subprocess.run([*command, "-k", "key or step or recipe"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
