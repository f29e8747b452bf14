"""Workflow, citation, changes and contributing guide agree with the project."""

import re
import tomllib

import pytest
import yaml

from lra.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()


def test_workflow_runs_the_tests_on_every_supported_python():
    job = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["test"]
    low, high = map(int, re.fullmatch(r">=3\.(\d+)\.\d+,<3\.(\d+)", PROJECT["requires-python"]).groups())
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(low, high)]
    assert {system.split("-")[0] for system in job["strategy"]["matrix"]["system"]} == {"ubuntu", "macos"}
    assert "make test" in [step.get("run") for step in job["steps"]]


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert f"## {PROJECT['version']}\n" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_issue_templates_are_forms(path):
    form = yaml.safe_load(path.read_text())
    assert form["name"]
    assert form["description"]
    assert all(part["attributes"]["label"] for part in form["body"])


def test_guide_names_targets_and_files_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = re.findall(r"^make ([a-z-]+)|`make ([a-z -]+)", GUIDE, flags=re.M)
    words = {word for group in named for text in group for word in text.split()}
    assert len(words) > 5
    assert words <= targets
    paths = re.findall(r"\]\(([^)]+)\)", GUIDE) + re.findall(r"`((?:configs|results|tests)/[\w./]+\w)`", GUIDE)
    assert len(paths) >= 5
    assert [path for path in paths if not (ROOT / path).exists()] == []
