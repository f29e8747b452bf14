"""Lightning is there, and what only its metrics want is not."""

import subprocess
import sys

import pytest

from lra import lean


@pytest.mark.slow
def test_torchmetrics_comes_without_what_only_its_metrics_want():
    program = "import sys, lra, torchmetrics; print([n for n in sys.argv[1:] if n in sys.modules], torchmetrics.Metric)"
    command = [sys.executable, "-c", program, *lean.OPTIONAL]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] <class")


def test_what_was_hidden_is_found_again(monkeypatch):
    from lightning_utilities.core.imports import RequirementCache, package_available

    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    for _ in range(2):
        with lean.hidden(("matplotlib",)):
            assert not package_available("matplotlib")
            assert not RequirementCache("matplotlib")
        assert package_available("matplotlib")
        assert RequirementCache("matplotlib")
