"""Repository layout. Import directions are import-linter contracts in pyproject.toml."""

import subprocess
import sys

from lra.paths import ROOT


def test_records_import_no_heavy_libraries():
    code = (
        "import sys, lra.records.store; print([m for m in ('torch', 'hydra', 'wandb', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_module_has_a_catch_all_name():
    catch_all = {"utils", "helpers", "common", "manager", "factory", "registry", "misc"}
    names = {p.stem for folder in ("lra", "models", "data", "scripts") for p in (ROOT / folder).rglob("*.py")}
    assert names & catch_all == set()
