"""Whichever Python a script is given to, it runs with the one that has the libraries, or says how to get it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BARE = [sys.executable, "-S", "-E"]  # without what is installed


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "scripts").mkdir()
    for name in ("start", "train"):
        shutil.copy(ROOT / "scripts" / f"{name}.py", tmp_path / "scripts")
    return tmp_path


def given(python, folder: Path) -> subprocess.CompletedProcess:
    command = [*python, "scripts/train.py", "task=listops", "model=s4"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_python_without_the_libraries_gives_way_to_that_of_venv(clone):
    own = clone / ".venv/bin/python"
    own.parent.mkdir(parents=True)
    own.write_text('#!/bin/sh\necho "$0 $@"\n')
    own.chmod(0o755)
    done = given(BARE, clone)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{own} scripts/train.py task=listops model=s4\n"


def test_without_any_it_is_one_line(clone):
    done = given(BARE, clone)
    assert done.returncode == 2
    assert done.stderr == f"scripts/train.py: {sys.executable} has no torch: make setup fills .venv once\n"


def test_every_script_asks_for_it_before_it_imports_a_library():
    """Those that are given to a Python by hand, which is all that a page or a cure names."""
    for path in sorted((ROOT / "scripts").glob("*.py")):
        text = path.read_text()
        if '__name__ == "__main__"' in text and path.stem not in ("bench_loop", "licences", "local", "peer"):
            before, found, _ = text.partition("    start.script()")
            assert found, path.name
            words = [
                line.split()[1].split(".")[0] for line in before.splitlines() if line.startswith(("import", "from"))
            ]
            assert set(words) <= set(sys.stdlib_module_names), path.name
