"""What is installed is locked by hash, and no source unpickles what a stranger wrote."""

import ast
import re
import tomllib

import pytest
from packaging.markers import Marker
from packaging.specifiers import SpecifierSet

from lra.paths import ROOT

REQUIREMENTS = (ROOT / "requirements.txt").read_text()
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;]+)(?: ; (.*?))? \\$", re.MULTILINE)
SOURCES = [path for folder in ("lra", "models", "data", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]


def locked() -> list[tuple[str, str, str]]:
    """(name, version, marker) of every line that locks a package."""
    return [(name, version, marker.strip()) for name, version, marker in PIN.findall(REQUIREMENTS)]


def test_every_locked_package_has_hashes_and_no_address():
    blocks = re.split(r"\n(?=\S)", REQUIREMENTS.strip())
    assert len(blocks) == len(locked()) > 100
    for block in blocks:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block.splitlines()[0]
    assert "://" not in REQUIREMENTS


def test_every_python_that_may_be_used_is_given_the_same_versions():
    """What was tried with one of them holds for the others: types as mypy sees them, rounding, warnings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pythons = list(SpecifierSet(project["requires-python"]).filter(f"3.{minor}" for minor in range(30)))
    assert len(pythons) > 1

    def given(python: str) -> set[tuple[str, str]]:
        about = {"python_version": python, "python_full_version": f"{python}.0"}
        rows = locked()
        return {(name, version) for name, version, marker in rows if not marker or Marker(marker).evaluate(about)}

    assert [sorted(given(python) ^ given(pythons[0])) for python in pythons] == [[]] * len(pythons)


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def is_safe(name: str, call: ast.Call) -> bool:
    """Does the call run no code of the file it reads?"""
    options = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
    if name == "torch.load":
        return options.get("weights_only") is True
    if name in ("np.load", "numpy.load"):
        return options.get("allow_pickle") is False
    if name == "yaml.load":
        return "Safe" in ast.unparse(call)
    if "ckpt_path" in options:
        return options.get("weights_only") is True
    if options.get("allow_pickle") is True or options.get("shell") is True:
        return False
    if name in ("eval", "exec", "os.system", "torch.jit.load", "torch.hub.load") or name.split(".")[0] in FORBIDDEN:
        return False
    return name.split(".")[-1] not in UNSAFE


# functions and classes that unpickle, of whatever library
UNSAFE = {"unsafe_load", "full_load", "read_pickle", "load_from_checkpoint", "CIFAR10"}
# libraries that unpickle, and readers that are only safe with an option that an import by name would hide
FORBIDDEN = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
HIDDEN = {("torch", "load"), ("numpy", "load"), ("yaml", "load")}
# what is unsafe and is done all the same, and the test that shows why it may be
ALLOWED = {("data/image.py", "CIFAR10"): "test_a_batch_file_that_is_not_the_official_one_is_never_unpickled"}


def imported(tree: ast.AST) -> list[str]:
    """Imports that could run what a file holds."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN]
        if isinstance(node, ast.ImportFrom) and node.module:
            by_name = [f"{node.module}.{a.name}" for a in node.names if (node.module, a.name) in HIDDEN]
            found += [node.module] if node.module.split(".")[0] in FORBIDDEN else by_name
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_source_reads_a_file_in_a_way_that_could_run_it(path):
    tree, name = ast.parse(path.read_text()), str(path.relative_to(ROOT))
    unsafe = [(name, word) for word, call in calls(tree) if not is_safe(word, call)]
    assert unsafe == [place for place in ALLOWED if place[0] == name]
    assert imported(tree) == []


def test_what_may_be_unsafe_has_a_test_of_its_own():
    written = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for test in ALLOWED.values():
        assert f"def {test}(" in written


def test_an_unsafe_call_would_be_found():
    reading = (
        "torch.load(p)",
        "np.load(p)",
        "np.load(p, allow_pickle=True)",
        "pd.read_pickle(p)",
        "pickle.load(f)",
        "datasets.CIFAR10(p)",
    )
    running = ("eval(x)", "run(x, shell=True)", "fit(x, ckpt_path=p)", "Net.load_from_checkpoint(p)")
    for code in (*reading, *running):
        ((name, call),) = calls(ast.parse(code))
        assert not is_safe(name, call), code
    for code in ("import pickle", "from pickle import loads", "from torch import load", "import joblib.externals"):
        assert imported(ast.parse(code)), code
