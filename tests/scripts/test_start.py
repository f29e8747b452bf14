"""Whichever Python a script is given to, it runs with the one that has the libraries, or says how to get it."""

import ast
import gc
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import start

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


def test_a_library_that_is_imported_at_once_is_looked_for():
    brought = {"numpy", "llvmlite", "omegaconf", "yaml"}  # by numba and hydra
    asked_for = {"triton"}  # by its kernels, which say no without it
    ours = {"lra", "models", "data", "scripts"}
    found = set()
    for path in itertools.chain(*((ROOT / folder).rglob("*.py") for folder in ours)):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
    assert found - sys.stdlib_module_names - ours - brought - asked_for <= set(start.NEEDED)


def test_code_and_home_that_cannot_be_written_are_one_line(monkeypatch, capsys):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere/cache")
    start.ensure_kept()  # the code can be written
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SystemExit) as stop:
        start.ensure_kept()
    assert stop.value.code == 2
    said = f"{sys.argv[0]}: neither {ROOT} nor /nowhere/cache can be written, to keep compiled code: "
    assert capsys.readouterr().err == f"{said}set NUMBA_CACHE_DIR to a folder that can\n"
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/some/dir")
    start.ensure_kept()


SPEAKER = """
import os, sys
from scripts import start
start.script()
told, other = (sys.stdout, sys.stderr)[:: int(sys.argv[1])]
for number in range(20_000):
    print(number, file=told)
# also what is started from here
print("still here", os.system(f"echo said to nobody >&{told.fileno()}"), file=other)
"""


@pytest.mark.parametrize(("python", "order"), [([], 1), (["-u"], 1), ([], -1)])
def test_a_reader_that_leaves_ends_nothing_and_leaves_no_trace(python, order):
    """As `head` does, and `tee` at Ctrl-C."""
    command = [sys.executable, *python, "-c", SPEAKER, str(order)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    told, other = (child.stdout, child.stderr)[::order]
    assert told.readline() == "0\n"
    told.close()
    assert other.read() == "still here 0\n"
    assert child.wait() == 0


def test_files_and_output_are_in_utf_8_whatever_the_locale():
    talk = "import sys; from scripts import start; start.script(); print(chr(8212), open('LICENSE').encoding, sys.argv)"
    latin = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", talk, "seed=0"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **latin}, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\u2014 utf-8 ['-c', 'seed=0']\n", "")


def test_a_full_disk_behind_what_is_printed_is_one_line():
    talk = "from scripts import start; start.script(); print(100_000 * 'a')"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", talk], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "-c: what it writes or prints: No space left on device: make room, or write elsewhere\n"


def test_every_script_asks_for_it_before_it_imports_a_library():
    """Those that are given to a Python by hand, which is all that a page or a cure names."""
    for path in sorted((ROOT / "scripts").glob("*.py")):
        text = path.read_text()
        if '__name__ == "__main__"' in text and path.stem not in ("bench_loop", "licences", "local", "peer"):
            before, found, _ = text.partition("    start.script()")
            assert found, path.name
            ast.parse(text, feature_version=(3, 8))  # read as a whole before anything gives way
            words = [
                line.split()[1].split(".")[0] for line in before.splitlines() if line.startswith(("import", "from"))
            ]
            assert set(words) <= set(sys.stdlib_module_names), path.name


def test_the_collector_is_back_after_an_import_that_fails():
    def imports():
        with start.undisturbed():
            assert not gc.isenabled()
            raise ImportError

    try:
        with pytest.raises(ImportError):
            imports()
        assert gc.isenabled()
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()
