"""Set-up gets over what it finds: half an environment, one whose Python has gone, a clone that was moved."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lra.paths import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
# a Python, and pip and uv: they note what they are asked, and make the environment
PYTHON = """#!/bin/sh
echo "$*" >> asked
if [ "$2" = venv ]; then rm -rf .venv; mkdir -p .venv/bin; cp python .venv/bin/python; cp python .venv/bin/uv; fi
"""
WITHOUT_PIP = '#!/bin/sh\n[ "$2" != pip ] && [ "$2" != ensurepip ]\n'


@pytest.fixture
def clone(tmp_path):
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    put(tmp_path / "python", PYTHON)
    return tmp_path


def put(program: Path, text: str) -> None:
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(text)
    program.chmod(0o755)


# without what the make that runs these tests would tell them
OURS = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


def make(clone: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    command = [shutil.which("make"), *words, "PYTHON=./python"]
    return subprocess.run(command, cwd=clone, env={**OURS, **environment}, capture_output=True, text=True)


def asked(clone: Path) -> list[str]:
    return (clone / "asked").read_text().splitlines() if (clone / "asked").exists() else []


def interrupted(clone: Path) -> None:
    """Also what Debian leaves where python3-venv is missing."""
    put(clone / ".venv/bin/python", WITHOUT_PIP)


def gone(clone: Path) -> None:
    (clone / ".venv/bin").mkdir(parents=True)
    (clone / ".venv/bin/python").symlink_to("/nowhere/python")
    (clone / ".venv/.ready").touch()


@pytest.mark.parametrize("found", [lambda clone: None, interrupted, gone])
def test_an_environment_that_cannot_be_used_is_made(found, clone):
    found(clone)
    done = make(clone, "setup")
    assert (done.returncode, done.stderr) == (0, "")
    assert "-m venv --clear .venv" in asked(clone)
    assert asked(clone)[-1].startswith("pip install --quiet --python .venv/bin/python --no-deps")
    assert "Nothing to be done" in make(clone, "setup").stdout


def test_one_that_can_be_used_stays_whatever_other_python_is_there(clone):
    put(clone / ".venv/bin/python", PYTHON)
    put(clone / ".venv/bin/uv", PYTHON)
    put(clone / "python", "#!/bin/sh\nexit 1\n")
    assert make(clone, "setup").returncode == 0
    assert [line for line in asked(clone) if "venv --clear" in line] == []


def test_an_installation_that_fails_ends_with_the_way_out_and_is_taken_up_again(clone):
    put(clone / ".venv/bin/python", PYTHON)
    put(clone / ".venv/bin/uv", "#!/bin/sh\nexit 1\n")
    (clone / ".venv/lib/python3/site-packages").mkdir(parents=True)
    done = make(clone, "setup")
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1].startswith("make: .venv is not complete, for the reason above; ")
    put(clone / ".venv/bin/uv", PYTHON)
    assert make(clone, "setup").returncode == 0
    assert [line for line in asked(clone) if "venv --clear" in line] == []  # nothing had been put in place


@pytest.mark.parametrize("end", ["kill -9 $PPID", "exit 1"])
def test_packages_that_were_put_in_place_in_part_are_put_there_anew(clone, end):
    """They would pass for whole: the next look is at their names only."""
    put(clone / ".venv/bin/python", PYTHON)
    put(clone / ".venv/bin/uv", f"#!/bin/sh\nmkdir -p .venv/lib/python3/site-packages\n{end}\n")
    assert make(clone, "setup").returncode == 2
    assert not (clone / ".venv/.ready").exists()
    assert make(clone, "setup").returncode == 0
    assert "-m venv --clear .venv" in asked(clone)
    assert not (clone / ".venv/.unfinished").exists()


@pytest.mark.skipif(shutil.which("flock") is None, reason="this system has no flock")
def test_a_second_make_waits_for_the_first(clone):
    with (clone / ".venv.tmp").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        command = ["make", "setup", "PYTHON=./python"]
        second = subprocess.Popen(command, cwd=clone, env=OURS, stdout=subprocess.PIPE, text=True)
        assert second.stdout.readline() == "another make is setting up .venv: waiting for it\n"
        assert asked(clone) == []
    assert second.wait() == 0
    second.stdout.close()
    assert (clone / ".venv/.ready").exists()


def test_a_clone_that_cannot_be_written_is_one_line(clone):
    (clone / ".venv.tmp").mkdir()  # root may write anywhere else
    done = make(clone, "setup")
    assert done.returncode == 2
    assert done.stdout == f"make: {clone}: cannot be written: clone it to where .venv can be made\n"


def test_tests_without_a_compiler_are_one_line(clone, tmp_path):
    done = make(clone, "test", PATH=str(tmp_path), CXX="")
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        "make: no C++ compiler was found, and tests need one: on Debian apt-get install g++"
    ]


def test_no_target_calls_a_program_that_knows_the_folder_it_was_installed_in():
    """A clone may be moved: the first line of a script of .venv would lead to where it was."""
    programs = set(re.findall(r"\$\(VENV\)/bin/(\w+)", MAKEFILE)) - {"python"}
    assert programs == {"ruff", "uv"}
    for name in programs:
        assert not (Path(sys.prefix) / "bin" / name).read_bytes().startswith(b"#!"), name
