"""The licence of every locked package, as its own metadata states it, into docs/licences.md.

    python scripts/licences.py

A package that is not installed here, being for another system or Python, is listed as such.
"""

import importlib.metadata
import re
import sys
from pathlib import Path

from lra.jsonfile import write_atomically

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "licences.md"
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)(?: ; ([^\\]+))?", re.MULTILINE)
ELSEWHERE = "not installed here"
UNSTATED = "not stated"
HEAD = """# Licences of what this repository depends on

Every package of [requirements.txt](../requirements.txt), locked by version and hash, with the licence its own metadata
states; written by `python scripts/licences.py`, never by hand. This repository is under Apache-2.0 and contains none
of their code. NVIDIA's packages are proprietary, come with PyTorch for CUDA, and are not needed on a processor.

| package | version | licence | where |
|---|---|---|---|
"""


def locked(requirements: str) -> list[tuple[str, str, str]]:
    """(name, version, marker) of every line that locks a package, the marker empty if it is for all."""
    return [(name, version, (marker or "").strip()) for name, version, marker in PIN.findall(requirements)]


def licence(name: str, version: str) -> str:
    """What the metadata of the installed package states: an SPDX expression, a short text, or its classifiers."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return ELSEWHERE
    if found.version.split("+")[0] != version:
        return ELSEWHERE
    metadata = found.metadata
    text = metadata.get("License-Expression") or metadata.get("License") or ""
    if text.strip() and len(text) <= 80 and "\n" not in text:
        return text.strip()
    named = [line.split(" :: ")[-1] for line in metadata.get_all("Classifier") or [] if line.startswith("License")]
    files = metadata.get_all("License-File") or []
    return "; ".join(named) or (f"not stated; see its {files[0]}" if files else UNSTATED)


def page(requirements: str) -> str:
    rows = [
        f"| {name} | {version} | {licence(name, version)} | {marker.replace('|', 'or') or 'everywhere'} |"
        for name, version, marker in locked(requirements)
    ]
    return HEAD + "\n".join(rows) + "\n"


def main() -> int:
    text = page((ROOT / "requirements.txt").read_text())
    write_atomically(PAGE, text)
    rows = text.count("\n| ") - 1
    print(f"{PAGE.relative_to(ROOT)}: {rows} packages, {text.count(ELSEWHERE)} of them {ELSEWHERE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
