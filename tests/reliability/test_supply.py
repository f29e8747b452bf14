"""Installed packages are locked by hash, and no source unpickles or evaluates what a file holds."""

import ast
import re
import tomllib

import pytest

from lra.paths import ROOT

REQUIREMENTS = (ROOT / "requirements.txt").read_text()
SOURCES = [path for folder in ("lra", "models", "data", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_every_package_is_locked_by_hash():
    blocks = re.split(r"\n(?=\S)", REQUIREMENTS.strip())
    assert len(blocks) > 100
    for block in blocks:
        assert re.match(r"[\w.-]+==\S+ [^\n]*\\\n +--hash=sha256:[0-9a-f]{64}", block), block.splitlines()[0]
    assert "://" not in REQUIREMENTS


# name of the package -> name of its module, where they differ
MODULES = {"hydra-core": "hydra", "pillow": "PIL", "vl-convert-python": "vl_convert"}


def test_every_declared_package_is_used():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {
        re.match(r"[\w-]+", line)[0] for line in project["dependencies"] + project["optional-dependencies"]["train"]
    }
    imported = {
        module.partition(".")[0]
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    unused = {name for name in declared if MODULES.get(name, name.replace("-", "_")) not in imported}
    # locked with torch already, for tasks of sound
    assert unused - {"torchaudio"} == set()


UNPICKLING_LIBRARIES = r"(pickle|marshal|shelve|dill|joblib|cloudpickle)\b"
UNSAFE_CALL = r"eval|exec|os\.system|.*\b(unsafe_load|full_load|read_pickle|load_from_checkpoint|hub\.load|jit\.load)"
# calls that are safe only with this argument
SAFE_ARGUMENT = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False", "yaml.load": "SafeLoader"}


def unsafe(source: str) -> list[str]:
    """Calls and imports that can run code from a file they read, and commands given to a shell."""
    found = []
    for node in ast.walk(ast.parse(source)):
        text = ast.unparse(node) if isinstance(node, ast.Call | ast.Import | ast.ImportFrom) else ""
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            needed = SAFE_ARGUMENT.get(name, "weights_only=True" if "ckpt_path=" in text else "")
            if needed not in text or "shell=True" in text or re.fullmatch(UNSAFE_CALL, name):
                found.append(text)
        elif re.match(rf"(from|import) {UNPICKLING_LIBRARIES}|from (torch|numpy|yaml) import load\b", text):
            found.append(text)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_source_runs_code_from_files(path):
    assert unsafe(path.read_text()) == []


def test_unsafe_code_is_detected():
    calls = ["torch.load(p)", "np.load(p, allow_pickle=True)", "pd.read_pickle(p)", "eval(x)", "run(x, shell=True)"]
    for code in (*calls, "fit(x, ckpt_path=p)", "import pickle", "from torch import load"):
        assert unsafe(code), code
