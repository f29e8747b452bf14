"""What is installed is locked by hash, its licences are listed, and no source unpickles what a stranger wrote."""

import ast
import re
from pathlib import Path

import pytest

from scripts import licences

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = (ROOT / "requirements.txt").read_text()
PAGE = licences.PAGE.read_text()
ROWS = {tuple(cell.strip() for cell in line.split("|")[1:3]): line for line in PAGE.splitlines() if "|" in line}
SOURCES = [path for folder in ("lra", "models", "data", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_every_locked_package_has_hashes_and_no_address():
    blocks = re.split(r"\n(?=\S)", REQUIREMENTS.strip())
    assert len(blocks) == len(licences.locked(REQUIREMENTS)) > 100
    for block in blocks:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block.splitlines()[0]
    assert "://" not in REQUIREMENTS


def test_every_locked_package_is_on_the_page_of_licences_and_no_other():
    assert [(n, v) for n, v, _ in licences.locked(REQUIREMENTS)] == list(ROWS)[2:]


def test_the_page_states_what_installed_packages_state():
    compared = 0
    for name, version, _ in licences.locked(REQUIREMENTS):
        stated = licences.licence(name, version)
        if stated != licences.ELSEWHERE:
            assert f"| {stated} |" in ROWS[name, version], "python scripts/licences.py"
            compared += 1
    assert compared > 100


def test_licences_copied_by_hand_are_found(tmp_path):
    assert licences.page("numpy==0.0.1 \\\n    --hash=sha256:00\n").count(licences.ELSEWHERE) == 1


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
    return name not in (
        "pickle.load",
        "pickle.loads",
        "joblib.load",
        "eval",
        "exec",
        "marshal.loads",
        "yaml.unsafe_load",
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_source_reads_a_file_in_a_way_that_could_run_it(path):
    tree = ast.parse(path.read_text())
    assert [f"line {call.lineno}: {name}" for name, call in calls(tree) if not is_safe(name, call)] == []
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not imported & {"pickle", "marshal", "shelve", "dill", "joblib"}


def test_an_unsafe_call_would_be_found():
    for code in ("torch.load(p)", "np.load(p)", "np.load(p, allow_pickle=True)", "pickle.load(f)", "eval(x)"):
        ((name, call),) = calls(ast.parse(code))
        assert not is_safe(name, call)
