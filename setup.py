"""The build steps that pyproject.toml cannot state: how the folders `models` and `data` get into a wheel.

Under these names they would hide the folders of other projects. A wheel has instead
    lra/models, lra/data   for import and type checkers; their imports of each other are changed to these names
    lra/_repository        code, configs, scripts and published numbers as they are here, for the command `lra`
An editable installation uses the folders where they are.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
RENAMED = ("models", "data")
COPIED = ("lra", *RENAMED, "configs", "scripts", "results/published")
IMPORT = re.compile(r"^(\s*from )(models|data)(?=[. ])", re.MULTILINE)
IGNORED = shutil.ignore_patterns("__pycache__", "prepared", "*.pyc")
EDITABLE = any(word in ("editable_wheel", "develop") for word in sys.argv)


class Build(build_py):
    """Adds the renamed folders and the copy of the repository to a wheel."""

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        package = Path(self.build_lib) / "lra"
        for name in RENAMED:
            shutil.rmtree(package / name)
            shutil.copytree(ROOT / name, package / name, ignore=IGNORED)
        for path in package.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            path.write_text(IMPORT.sub(r"\1lra.\2", text), encoding="utf-8")
        for name in COPIED:
            shutil.copytree(ROOT / name, package / "_repository" / name, ignore=IGNORED)
        (package / "_repository" / "COMMIT").write_text(commit(), encoding="utf-8")


def commit() -> str:
    """The commit that is built; empty if there is none, or files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return "" if git("status", "--porcelain", "--", ".", ":(exclude)results") else git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return ""


include = ["lra*", *(f"{name}*" for name in RENAMED if EDITABLE)]
setup(packages=find_packages(str(ROOT), include=include), cmdclass={"build_py": Build})
