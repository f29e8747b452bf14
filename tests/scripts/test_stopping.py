"""Ctrl-C while a script imports its libraries, which takes seconds, leaves nothing on the screen."""

import signal
import subprocess
import sys

import pytest

from lra.paths import ROOT

# the signal comes just when the library is looked for
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


SCRIPTS = [
    "train",
    "prepare_data",
    "evaluate",
    "plan",
    "lra_all",
    "tables",
    "report",
    "audit",
    "bench",
    "wandb_pull",
    "plot_s4",
    "demo",
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_stopped_while_it_imports_says_nothing(script, tmp_path):
    words = {"prepare_data": ["show", "task=listops"], "evaluate": [f"checkpoint={tmp_path / 'model.safetensors'}"]}
    (tmp_path / "model.safetensors").touch()
    command = [sys.executable, "-c", STOPPED, str(ROOT / "scripts" / f"{script}.py"), *words.get(script, [])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
