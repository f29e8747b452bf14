"""For all tests: no network beyond this machine; at the end, what randomised tests tried and models promised."""

import os
import re
from pathlib import Path

import pytest

OFFLINE = Path(__file__).parent / "offline"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))
# the library's own server is no Python, and would send telemetry
os.environ["WANDB_ERROR_REPORTING"] = "false"
exec(compile((OFFLINE / "sitecustomize.py").read_text(), str(OFFLINE / "sitecustomize.py"), "exec"), {})


@pytest.fixture(autouse=True)
def _network(request, monkeypatch):
    if request.node.get_closest_marker("network"):
        monkeypatch.setenv("LRA_TESTS_MAY_CONNECT", "1")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    # Hypothesis leaves there what its option --hypothesis-show-statistics prints
    tried = re.findall(r"(\d+) passing, (\d+) failing", getattr(item, "hypothesis_statistics", ""))
    if report.when == "call" and tried:
        report.user_properties.append(("inputs tried", sum(int(n) for pair in tried for n in pair)))


def pytest_terminal_summary(terminalreporter):
    """Totals of what tests have counted: inputs tried, processes killed; parameters and exemptions of models."""
    totals: dict[str, int] = {}
    said: set[tuple[str, str]] = set()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()) if getattr(report, "when", "") == "call" else ():
                if isinstance(value, int) and name in ("inputs tried", "processes stopped"):
                    totals[name] = totals.get(name, 0) + value
                elif name in ("parameters", "exempt"):
                    said.add((name, value))
    for name, total in sorted(totals.items()):
        terminalreporter.write_line(f"{name}: {total:,}")
    sizes = sorted(value for name, value in said if name == "parameters")
    for start in range(0, len(sizes), 6):
        terminalreporter.write_line("parameters as tested: " + ", ".join(sizes[start : start + 6]))
    for reason in sorted(value for name, value in said if name == "exempt"):
        terminalreporter.write_line(f"exempt: {reason}")
