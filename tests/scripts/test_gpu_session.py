"""The prepared GPU session, rehearsed on the CPU."""

import json
import subprocess
import sys
import tarfile
import time

import gpu_session
import pytest

from lra.paths import ROOT


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_rehearsal_brings_back_every_step_and_a_training(tmp_path):
    command = [sys.executable, "scripts/gpu_session.py", str(tmp_path), "--device", "cpu", "--rehearse"]
    done = subprocess.run([*command, "--minutes", "10", f"data.root={tmp_path}/data"], cwd=ROOT, text=True)
    session = json.loads((tmp_path / "session.json").read_text())
    assert done.returncode == 0
    names = ["tests", "kernel", "layer", "convolution", "lssl", "step", "train"]
    assert [(step["step"], step["status"]) for step in session["steps"]] == [(name, "ok") for name in names]
    for name in names[1:-1]:
        assert json.loads((tmp_path / f"{name}_cpu.json").read_text())["rows"]
    with tarfile.open(tmp_path / "run.tar.gz") as archive:
        assert any(name.endswith(".json") and "results" in name for name in archive.getnames())


def test_a_step_that_takes_too_long_is_stopped_and_its_output_kept():
    code = "import time; print('begun', flush=True); time.sleep(60)"
    began = time.monotonic()
    outcome = gpu_session.carry_out(gpu_session.Step("slow", 1, [sys.executable, "-c", code]), 2)
    assert time.monotonic() - began < 30
    assert (outcome["status"], outcome["output"]) == ("out of time", ["begun"])


def test_a_step_that_fails_is_told_apart():
    outcome = gpu_session.carry_out(gpu_session.Step("bad", 9, [sys.executable, "-c", "raise ValueError('x')"]), 30)
    assert outcome["status"] == "failed"
    assert outcome["output"][-1] == "ValueError: x"
