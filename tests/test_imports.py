"""The shape of the repository. Import directions are contracts of import-linter in pyproject.toml."""

import subprocess
import sys

from lra.paths import ROOT


def test_reading_records_imports_none_of_the_heavy_libraries():
    code = (
        "import sys, lra.records.record; print([m for m in ('torch', 'hydra', 'wandb', 'pandas') if m in sys.modules])"
    )
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


def test_ci_runs_a_valid_shell_script():
    done = subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
