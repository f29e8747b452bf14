"""The compiled loops of today are those of today's files."""

import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent.parent / "data"


def test_an_edit_of_any_compiled_file_leaves_no_older_machine_code_in_use(tmp_path):
    """numba looks at the file of the outermost function only; what this calls in another file may be of yesterday."""
    (tmp_path / "data").mkdir()
    for path in (FOLDER / "splitmix.py", FOLDER / "__init__.py"):
        if path.exists():
            shutil.copy(path, tmp_path / "data")
    lines = ["import numpy as np", "from numba import njit", "from data.compiled_inner import inner"]
    outer = [*lines, "", "@njit(cache=True)", "def outer(x):", "    return inner(x)"]
    (tmp_path / "data/compiled_outer.py").write_text("\n".join(outer))
    said = []
    for number in (1, 2):
        inner = [
            "from numba import njit",
            "import data.splitmix",
            "",
            "@njit",
            "def inner(x):",
            f"    return x + {number}",
        ]
        (tmp_path / "data/compiled_inner.py").write_text("\n".join(inner))
        call = [sys.executable, "-B", "-c", "from data.compiled_outer import outer; print(outer(10))"]
        said.append(subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip())
    assert said == ["11", "12"]
