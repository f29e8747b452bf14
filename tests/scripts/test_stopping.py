"""Ctrl-C while a command imports its libraries, which takes seconds, prints nothing."""

import signal
import subprocess
import sys

import pytest

from lra.paths import ROOT

# sends the signal when one of these libraries is imported
STOPPED = """
import os, runpy, signal, sys

class Stop:
    @staticmethod
    def find_spec(name, *_):
        if name in ("hydra", "torch", "rich"):
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Stop)
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


SCRIPTS = sorted(p.stem for p in (ROOT / "scripts").glob("*.py") if p.stem not in ("__init__", "handover"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_during_imports_prints_nothing(script, tmp_path):
    words = {"prepare_data": ["show", "task=listops"], "evaluate": [f"checkpoint={tmp_path / 'model.safetensors'}"]}
    (tmp_path / "model.safetensors").touch()
    command = [sys.executable, "-c", STOPPED, str(ROOT / "scripts" / f"{script}.py"), *words.get(script, [])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
