"""The wheel: layers importable beside another project's `models` and `data`, and the command `lra`."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from lra.paths import ROOT

SOURCES = ("lra", "models", "data", "configs", "scripts", "results/published")
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the unpacked wheel, built from a copy of the repository."""
    copy, site = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("site")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "prepared"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    (copy / "data" / "prepared").mkdir()
    (copy / "data" / "prepared" / "large.npy").touch()
    subprocess.run([sys.executable, "-c", BUILD, str(site)], cwd=copy, check=True, capture_output=True)
    (wheel,) = site.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site


@pytest.fixture
def project(tmp_path):
    """Another project, which has its own `models` and `data`."""
    for name in ("models", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"OWNER = 'the project, {name}'\n")
    return tmp_path


def python(project, site, *arguments):
    paths = os.pathsep.join((str(project), str(site)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_wheel_takes_one_name(site):
    names = {path.name for path in site.iterdir() if not path.name.endswith((".whl", ".dist-info"))}
    assert names == {"lra"}
    assert (site / "lra" / "py.typed").is_file()
    assert not list(site.rglob("large.npy"))
    for path in (p for p in (site / "lra").rglob("*.py") if "_repository" not in p.parts):
        assert not re.search(r"^\s*(?:from|import) (?:models|data)\b", path.read_text(), re.MULTILINE), path


def test_layers_are_installed_beside_other_models_and_data(site, project):
    code = """
import json, torch, models, data, lra
from lra.models.megalodon import Megalodon
from lra.data.generators import listops
from lra.models.s4 import S4
y = S4(d_model=4, max_len=8)(torch.randn(2, 8, 4))
print(json.dumps([models.OWNER, data.OWNER, lra.__file__, S4.__module__, list(y.shape)]))
"""
    found = json.loads(python(project, site, "-c", code))
    assert found[:2] == ["the project, models", "the project, data"]
    assert found[2:] == [str(site / "lra" / "__init__.py"), "lra.models.s4", [2, 8, 4]]


def test_command_uses_our_own_folders(site, project):
    # in place of a script: training takes long
    scripts = site / "lra" / "_repository" / "scripts"
    (scripts / "evaluate.py").write_text("import handover, sys, models, data; print(models.__file__, *sys.argv[1:])")
    folder, *arguments = python(project, site, "-m", "lra", "evaluate", "a=b", "c").split()
    assert folder == str(scripts.parent / "models" / "__init__.py")
    assert arguments == ["a=b", "c"]


@pytest.mark.nightly
def test_command_trains_in_the_folder_it_is_called_from(site, project):
    # a repository that happens to be around the environment
    git = ["git", "-C", str(site), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    words = ["task=listops", "model=s4", "scale=smoke", "wandb.mode=disabled", "trainer=cpu"]
    python(project, site, "-m", "lra", "train", *words)
    record = json.loads((project / "results/runs/smoke/s4/listops/0.json").read_text())
    assert (record["status"], record["config"]["model"]["mixer"]["_target_"]) == ("ok", "models.s4.S4")
    assert record["git"]["commit"] is None
    code = """
import glob
from lra.launch.evaluation import load_model
model, data, record = load_model(glob.glob("runs/smoke/listops/s4/*")[0])
data.prepare_data()
data.setup()
batch = next(iter(data.test_dataloader()))
print(next(type(m).__module__ for m in model.modules() if type(m).__name__ == "S4"), *model(batch.x, batch.mask).shape)
"""
    assert python(project, site, "-c", code).split()[-3:] == ["lra.models.s4", "8", "10"]


@pytest.mark.parametrize(("words", "status"), [(["nonsense"], 2), ([], 0)])
def test_commands_are_listed(words, status):
    done = subprocess.run([sys.executable, "-m", "lra", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert ("nonsense: no such command; hint" if status else "usage: lra {train,") in done.stderr


def test_repository_has_the_same_names():
    assert importlib.import_module("lra.models.s4").S4.__module__ == "lra.models.s4"
    assert importlib.import_module("lra.data.tokenizer").__file__ == str(ROOT / "data" / "tokenizer.py")
