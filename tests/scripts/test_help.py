"""--help explains every argument, and files that are no commands say so."""

import ast
import runpy
import sys

import pytest

from lra.paths import ROOT

SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
BENCHMARKS = [p.stem for p in SCRIPTS if p.parent.name == "benchmarks" and "def run(args" in p.read_text()]


def test_every_argument_is_explained():
    calls = [
        (path.name, node.lineno, {word.arg for word in node.keywords})
        for path in SCRIPTS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "add_argument"
    ]
    assert len(calls) > 50
    assert [(name, line) for name, line, given in calls if "help" not in given] == []


@pytest.mark.parametrize("name", [*BENCHMARKS, "s4_repo"])
def test_benchmark_called_as_a_script_is_one_line(name, monkeypatch):
    path = ROOT / "scripts/benchmarks" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    # as Python does for a script: its folder comes first
    monkeypatch.syspath_prepend(path.parent)
    for module in [m for m in sys.modules if m.partition(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(SystemExit, match=rf"^{name}.py: is .*; hint: python scripts/bench.py \w+ --help$"):
        runpy.run_path(str(path), run_name="__main__")
