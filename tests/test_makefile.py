"""`make setup` resumes after an interruption, repairs a broken environment and survives a moved clone."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lra.paths import ROOT

# stands for python, pip and uv: logs its arguments and creates the environment
PYTHON = """#!/bin/sh
echo "$*" >> calls
if [ "$2" = venv ]; then rm -rf .venv; mkdir -p .venv/bin; cp python .venv/bin/python; cp python .venv/bin/uv; fi
"""
# variables of a make that runs these tests must not reach the make under test
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def clone(tmp_path):
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    write_program(tmp_path / "python", PYTHON)
    return tmp_path


def make(clone: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    command = [shutil.which("make") or "make", *words, "PYTHON=./python"]
    return subprocess.run(command, cwd=clone, env={**ENVIRONMENT, **environment}, capture_output=True, text=True)


def created(clone: Path) -> bool:
    """True if make created the environment, rather than keep the one it found."""
    return "-m venv --clear .venv" in (clone / "calls").read_text().splitlines()


def half_made(clone: Path) -> None:
    """An environment without pip, as Debian leaves it if python3-venv is missing."""
    write_program(clone / ".venv/bin/python", '#!/bin/sh\n[ "$2" != pip ] && [ "$2" != ensurepip ]\n')


def python_removed(clone: Path) -> None:
    (clone / ".venv/bin").mkdir(parents=True)
    (clone / ".venv/bin/python").symlink_to("/nowhere/python")
    (clone / ".venv/.ready").touch()


@pytest.mark.parametrize("prepare", [lambda clone: None, half_made, python_removed])
def test_unusable_environment_is_created(prepare, clone):
    prepare(clone)
    done = make(clone, "setup")
    assert (done.returncode, done.stderr) == (0, "")
    assert created(clone)
    assert "Nothing to be done" in make(clone, "setup").stdout


def test_failed_installation_is_resumed(clone):
    write_program(clone / ".venv/bin/python", PYTHON)
    write_program(clone / ".venv/bin/uv", "#!/bin/sh\nexit 1\n")
    (clone / ".venv/lib/python3/site-packages").mkdir(parents=True)
    # a usable environment is kept whatever other Python there is
    write_program(clone / "python", "#!/bin/sh\nexit 1\n")
    done = make(clone, "setup")
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1].startswith("make: .venv is incomplete")
    write_program(clone / ".venv/bin/uv", PYTHON)
    assert make(clone, "setup").returncode == 0
    # no package had been installed
    assert not created(clone)


@pytest.mark.parametrize("end", ["kill -9 $PPID", "exit 1"])
def test_partly_installed_packages_are_replaced(clone, end):
    """The installer would take them for complete, as it only looks at their names."""
    write_program(clone / ".venv/bin/python", PYTHON)
    write_program(clone / ".venv/bin/uv", f"#!/bin/sh\nmkdir -p .venv/lib/python3/site-packages\n{end}\n")
    assert make(clone, "setup").returncode == 2
    assert not (clone / ".venv/.ready").exists()
    assert make(clone, "setup").returncode == 0
    assert created(clone)


@pytest.mark.skipif(shutil.which("flock") is None, reason="this system has no flock")
def test_second_make_waits_for_the_first(clone):
    with (clone / ".venv.tmp").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ["make", "setup", "PYTHON=./python"]
        second = subprocess.Popen(command, cwd=clone, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        assert second.stdout
        assert second.stdout.readline().startswith("another make is setting up .venv")
        assert not (clone / "calls").exists()
    assert second.wait() == 0
    second.stdout.close()
    assert (clone / ".venv/.ready").exists()


def test_unwritable_clone_is_one_line(clone):
    (clone / ".venv.tmp").mkdir()  # root may write to any folder
    done = make(clone, "setup")
    assert done.returncode == 2
    assert re.fullmatch(rf"make: {clone} is not writable; hint: .*\n", done.stdout)


def test_missing_compiler_is_one_line(clone, tmp_path):
    done = make(clone, "test", PATH=str(tmp_path), CXX="")
    assert done.returncode == 2
    assert re.fullmatch("make: .*C\\+\\+ compiler.*; hint: .*\n", done.stdout)


def test_targets_work_in_a_moved_clone():
    """Scripts of .venv/bin name its old folder in their first line, so only compiled programs may be called."""
    programs = set(re.findall(r"\$\(VENV\)/bin/(\w+)", (ROOT / "Makefile").read_text())) - {"python"}
    for name in programs:
        assert not (Path(sys.prefix) / "bin" / name).read_bytes().startswith(b"#!"), name
