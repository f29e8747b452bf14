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
from hydra.utils import instantiate

import lra.config.compose  # noqa: F401 (registers the resolvers of the configuration)
from data import verify
from data.prepared import DataError
from helpers.documented_files import write_files
from lra.paths import ROOT

SECTION = (ROOT / "data" / "README.md").read_text().partition("## Add a task")[2].partition("## ")[0]
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
