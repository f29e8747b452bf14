"""Commands can be called with any Python, and end without a stack trace."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lra.paths import ROOT

COMMANDS = sorted(p for p in (ROOT / "scripts").glob("*.py") if p.stem not in ("__init__", "handover"))
BARE = [sys.executable, "-S", "-E"]  # without installed libraries


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "scripts").mkdir()
    for name in ("handover", "train"):
        shutil.copy(ROOT / "scripts" / f"{name}.py", tmp_path / "scripts")
    return tmp_path


def call(folder):
    command = [*BARE, "scripts/train.py", "task=listops", "model=s4"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_bare_python_hands_over_to_venv(clone):
    python = clone / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$0 $@"\n')
    python.chmod(0o755)
    done = call(clone)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{python} scripts/train.py task=listops model=s4\n"


def test_without_venv_the_hint_is_make_setup(clone):
    done = call(clone)
    assert done.returncode == 2
    assert done.stderr.endswith("has no torch; hint: make setup creates .venv with everything\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("path", COMMANDS, ids=lambda p: p.stem)
def test_every_command_hands_over_before_any_other_import(path):
    imports = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert ast.unparse(imports[0]) == "import handover"
    ast.parse(path.read_text(), feature_version=(3, 8))


SPEAKER = "import handover\nhandover.run(lambda: [print(n) for n in range(100_000)] and 0)"


def test_a_closed_pipe_leaves_no_trace():
    command = [sys.executable, "-c", SPEAKER]
    child = subprocess.Popen(command, cwd=ROOT / "scripts", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "0\n"
    child.stdout.close()
    assert child.stderr.read() == ""
    assert child.wait() == 141


def test_a_full_disk_is_one_line():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", SPEAKER]
        done = subprocess.run(command, cwd=ROOT / "scripts", stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "-c: output: No space left on device\n")
