"""`make setup` resumes after an interruption, repairs a broken environment and survives a moved clone."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import zipfile
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


def calls_of_uv(clone: Path) -> list[str]:
    return [line for line in (clone / "calls").read_text().splitlines() if line.startswith("pip install")]


def packages(text: str) -> dict[str, str]:
    """Name -> its lines in a file of requirements."""
    return {re.match(r"[\w.-]+", block)[0]: block.strip() for block in re.split(r"\n(?=\S)", text.strip())}


def test_setup_without_libraries_for_a_gpu(clone):
    done = make(clone, "setup", "CPU=1")
    assert (done.returncode, done.stderr) == (0, "")
    first, second, _ = calls_of_uv(clone)
    assert "--require-hashes --no-deps -r .venv/.requirements.txt" in first
    locked = packages((clone / "requirements.txt").read_text())
    versions = [locked[name].split()[0] for name in ("torch", "torchaudio", "torchvision")]
    assert second.endswith(f"--no-deps --torch-backend cpu {' '.join(versions)}")
    installed = packages((clone / ".venv/.requirements.txt").read_text())
    left_out = locked.keys() - installed.keys()
    assert left_out >= {"torch", "triton", "nvidia-cudnn-cu13"}
    assert all(re.match("torch$|torchvision|torchaudio|triton|nvidia-|cuda-", name) for name in left_out)
    assert installed == {name: lines for name, lines in locked.items() if name not in left_out}


def test_installer_takes_the_builds_for_the_cpu(clone, tmp_path):
    """The real installer, with wheels of a folder in place of PyTorch's index."""
    make(clone, "setup", "CPU=1")
    words = calls_of_uv(clone)[1].replace("--python .venv/bin/python", f"--target {tmp_path / 'site'}").split()
    versions = dict(word.split("==") for word in words[-3:])
    for name, version in versions.items():
        folder = f"{name}-{version}+cpu.dist-info"
        with zipfile.ZipFile(tmp_path / f"{name}-{version}+cpu-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}+cpu\n")
            wheel.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{folder}/RECORD", f"{folder}/METADATA,,\n{folder}/WHEEL,,\n{folder}/RECORD,,\n")
    environment = {**os.environ, "UV_OFFLINE": "1", "UV_FIND_LINKS": str(tmp_path)}
    command = [Path(sys.prefix) / "bin/uv", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    installed = {path.name for path in (tmp_path / "site").glob("*.dist-info")}
    assert installed == {f"{name}-{version}+cpu.dist-info" for name, version in versions.items()}


def test_choice_of_the_cpu_is_kept(clone):
    make(clone, "setup", "CPU=1")
    assert "Nothing to be done" in make(clone, "setup").stdout
    os.utime(clone / "requirements.txt", (2e9, 2e9))
    (clone / "calls").unlink()
    make(clone, "setup")
    assert len(calls_of_uv(clone)) == 3
    assert not created(clone)
    # the other kind is another environment
    (clone / "calls").unlink()
    make(clone, "setup", "CPU=0")
    assert created(clone)
    assert len(calls_of_uv(clone)) == 2
    make(clone, "setup", "CPU=1")
    assert len(calls_of_uv(clone)) == 5


def test_machine_without_a_gpu_is_told_of_the_smaller_setup(clone):
    assert "hint: make setup CPU=1" in make(clone, "setup").stdout
    shutil.rmtree(clone / ".venv")
    write_program(clone / "bin/nvidia-smi", "#!/bin/sh\n")
    done = make(clone, "setup", PATH=f"{clone / 'bin'}:{os.environ['PATH']}")
    assert done.returncode == 0
    assert "CPU=1" not in done.stdout


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
