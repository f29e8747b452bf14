"""Identity of a run: code and data that decide a result are part of what checkpoints, records and tables say it is."""

import shutil
import sys
import time

import pytest

from lra import paths
from lra.config.compose import cell_of, composed
from lra.paths import ROOT
from lra.records.code import changes, code_files, code_fingerprint
from lra.records.record import Code
from lra.records.store import load


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of the source of which fingerprints are taken."""
    for name in ("lra", "models", "data"):
        ignored = shutil.ignore_patterns("__pycache__", "prepared", "raw")
        shutil.copytree(ROOT / name, tmp_path / "checkout" / name, ignore=ignored)
    monkeypatch.setattr(paths, "ROOT", tmp_path / "checkout")
    return tmp_path / "checkout"


def config_of(*words: str) -> dict:
    return cell_of(**composed(["task=listops", *words])).config


def edit(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("models/s4.py", '"""', '"""Another docstring. ', set()),
        ("models/s4.py", "import torch\n", "import torch  # a comment\n\n\n", set()),
        ("models/s4.py", "import torch\n", "import torch\n\nSOMETHING = 2\n", {"model"}),
        ("models/s5.py", "import torch\n", "import torch\n\nSOMETHING = 2\n", set()),
        ("data/listops.py", "SHORTEST = 500", "SHORTEST = 501", {"model"}),
        ("data/download.py", "import", "X = 1\nimport", set()),
        ("lra/nn/blocks.py", "from torch import", "import math\nfrom torch import", {"framework"}),
        ("lra/training/learner.py", "import torch\n", "import torch\n\nSOMETHING = 2\n", {"framework"}),
        ("lra/training/progress_bar.py", "import", "X = 1\nimport", set()),
        ("lra/ops/ssm_kernels/csrc/cauchy.cpp", "#include", "// a comment\n\n  #include", set()),
        ("lra/ops/ssm_kernels/csrc/cauchy.cpp", "#include", "#define X 1\n#include", {"framework"}),
    ],
)
def test_only_code_that_counts_changes_the_fingerprint(file, old, new, changed, checkout):
    config = config_of("model=s4")
    before = code_fingerprint(config)
    edit(checkout / file, old, new)
    now = code_fingerprint(config)
    assert {part for part in ("model", "framework") if getattr(before, part) != getattr(now, part)} == changed


def test_changed_files_are_named(checkout):
    config = config_of("model=transformer")
    before = code_files(config)
    assert changes(before, code_files(config)) is None
    edit(checkout / "models/transformer.py", "from torch import", "import math\nfrom torch import")
    assert changes(before, code_files(config)) == "model code (models/transformer.py)"
    edit(checkout / "lra/nn/heads.py", "from torch import", "import math\nfrom torch import")
    assert changes(before, code_files(config)).endswith(" and framework code (lra/nn/heads.py)")


def test_model_outside_of_the_project_counts_with_its_neighbours(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_model.py").write_text("from my_parts import Part\nimport numpy\n\n\nclass Mine: pass\n")
    (tmp_path / "my_parts.py").write_text("class Part:\n    width = 1\n")
    config = {"task": {}, "model": {"_target_": "my_model.Mine"}}
    files = code_files(config)
    assert set(files["model"]) == {"my_model", "my_parts"}
    (tmp_path / "my_parts.py").write_text("class Part:\n    width = 22\n")
    assert changes(files, code_files(config)) == "model code (my_parts)"
    assert "my_model" not in sys.modules
    # nothing follows into a library, and a class that is gone has a fingerprint too
    assert set(code_files({"task": {}, "model": {"_target_": "numpy.ndarray"}})["model"]) == {"numpy"}
    assert code_files({"task": {}, "model": {"_target_": "gone.Model"}})["model"] == {"gone": "missing"}


def test_fingerprint_takes_little_time():
    config, start = config_of("model=s4"), time.perf_counter()
    assert isinstance(code_fingerprint(config), Code)
    assert time.perf_counter() - start < 0.5
    assert load(ROOT / "tests/golden/record.json").code is None
