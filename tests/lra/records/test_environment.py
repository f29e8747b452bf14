"""Environment of a run: versions, hardware, commit."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lra.records.environment import git, hardware, versions
from lra.records.record import Git


def test_environment_is_complete():
    assert {"python", "torch", "numpy"} <= set(versions())
    machine = hardware()
    assert machine.cores >= 1
    assert machine.memory_mib > 100
    assert git(Path("/")) == Git(commit=None, dirty=None)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("other_owner", ["0", "1"])
def test_code_makes_the_tree_dirty_but_results_do_not(other_owner, tmp_path, monkeypatch):
    def run(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    run("init", "-q")
    (tmp_path / "code.py").write_text("1")
    run("add", "code.py")
    run("commit", "-qm", "first")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", other_owner)  # as for a folder mounted in a container
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "r.json").write_text("{}")
    assert git(tmp_path).dirty is False
    assert len(git(tmp_path).commit) == 40
    (tmp_path / "new.py").write_text("1")
    assert git(tmp_path).dirty is True
