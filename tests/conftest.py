"""Set-up of all tests: blocks the network, runs randomised checks, and sums counts up at the end."""

import os
from pathlib import Path

import pytest

OFFLINE = Path(__file__).parent / "offline"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))
# W&B's server is not a Python process, so the block does not reach it; this keeps it from sending telemetry
os.environ["WANDB_ERROR_REPORTING"] = "false"
# no test depends on what a user's shell says; those of real data read the folder from LRA_TESTS_MIRROR
for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "LRA_PATIENCE", "LRA_TRACE"):
    os.environ.pop(name, None)
if (mirror := os.environ.pop("LRA_MIRROR", None)) is not None:
    os.environ["LRA_TESTS_MIRROR"] = mirror
exec(compile((OFFLINE / "sitecustomize.py").read_text(), str(OFFLINE / "sitecustomize.py"), "exec"), {})


@pytest.fixture(autouse=True)
def _network(request, monkeypatch):
    if request.node.get_closest_marker("network"):
        monkeypatch.setenv("LRA_TESTS_MAY_CONNECT", "1")


@pytest.fixture
def fuzz(record_property):
    """A function that calls a check with keyword arguments drawn from Hypothesis strategies."""
    from hypothesis import HealthCheck, given, settings

    def run(check, examples: int, **strategies) -> None:
        tried = 0

        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(**strategies)
        def counted(**inputs):
            nonlocal tried
            tried += 1
            check(**inputs)

        counted()
        record_property("inputs tried", tried)

    return run


def pytest_terminal_summary(terminalreporter):
    """Print total inputs tried and processes stopped, and each model's parameters and exemptions."""
    totals: dict[str, int] = {}
    texts: dict[str, set[str]] = {"parameters": set(), "exempt": set()}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()) if getattr(report, "when", "") == "call" else ():
                if isinstance(value, int) and name in ("inputs tried", "processes stopped"):
                    totals[name] = totals.get(name, 0) + value
                elif name in texts:
                    texts[name].add(value)
    for name, total in sorted(totals.items()):
        terminalreporter.write_line(f"{name}: {total:,}")
    sizes = sorted(texts["parameters"])
    for start in range(0, len(sizes), 6):
        terminalreporter.write_line("parameters as tested: " + ", ".join(sizes[start : start + 6]))
    for reason in sorted(texts["exempt"]):
        terminalreporter.write_line(f"exempt: {reason}")
