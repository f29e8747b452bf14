"""For all tests: no network beyond this machine, and a count of the inputs that randomised tests have tried."""

import os
import re
from pathlib import Path

import pytest

OFFLINE = Path(__file__).parent / "offline"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))
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
    """Totals of what tests have counted: inputs tried, processes killed."""
    totals: dict[str, int] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()) if getattr(report, "when", "") == "call" else ():
                if isinstance(value, int) and name in ("inputs tried", "processes stopped"):
                    totals[name] = totals.get(name, 0) + value
    for name, total in sorted(totals.items()):
        terminalreporter.write_line(f"{name}: {total:,}")
