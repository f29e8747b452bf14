"""Imports point one way: scripts -> {models, data} -> lra; and what CI runs is a program."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "lra": {"models", "data", "scripts", "hydra", "omegaconf", "wandb"},
    "models": {"data", "scripts", "hydra", "omegaconf", "wandb"},
    "data": {"models", "scripts", "hydra", "omegaconf", "wandb"},
}


def imported(path: Path) -> set[str]:
    """First names of everything a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(f.relative_to(ROOT)): imported(f) & FORBIDDEN[package] for f in files}
    assert {f: names for f, names in wrong.items() if names} == {}


def test_reading_records_needs_none_of_the_heavy_libraries():
    code = "import sys, lra.results; print([m for m in ('torch', 'hydra', 'wandb', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_module_is_a_heap():
    heaps = {"utils", "helpers", "common", "manager", "factory", "registry", "misc"}
    names = {p.stem for folder in ("lra", "models", "data", "scripts") for p in (ROOT / folder).rglob("*.py")}
    assert names & heaps == set()


def test_top_level_is_as_fixed():
    for name in ("lra", "models", "data", "configs", "scripts", "results", "tests"):
        assert (ROOT / name).is_dir(), name
    assert (ROOT / "Makefile").is_file()
    assert (ROOT / "README.md").is_file()


def test_what_ci_runs_is_a_shell_script():
    done = subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
