"""The commands of scripts/ by name: lra train task=listops model=s4 scale=mini.

They write to the folder they are called from: results/runs, runs, data/prepared.
"""

import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# installed from a wheel, the package has a copy of the repository; see setup.py
COPY = HERE / "_repository"
ROOT = COPY if COPY.is_dir() else HERE.parent
# arguments before the caller's own: these scripts write to the repository otherwise
COMMANDS = {
    "train": (),
    "evaluate": (),
    "generate": (),
    "push": (),
    "prepare-data": (),
    "tables": ("--runs=results/runs", "--bench=results/bench", "--out=results/tables"),
    "report": ("--runs=results/runs", "--bench=results/bench", "--out=results/report.html"),
}


def main() -> None:
    """Replace this process by the script; exit status 2 for an unknown command."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name not in COMMANDS:
        problem = "" if name in ("-h", "--help") else f"lra: {name}: no such command; hint: lra --help\n"
        sys.stderr.write(problem or f"usage: lra {{{','.join(COMMANDS)}}} ...; lra train --help, for example\n")
        sys.exit(2 if problem else 0)
    script = ROOT / "scripts" / f"{name.replace('-', '_')}.py"
    if ROOT == COPY:
        if importlib.util.find_spec("pytorch_lightning") is None:
            sys.exit(f"lra {name}: pytorch_lightning is not installed; hint: pip install 'lra[train]'")
        # a repository around the environment is not ours
        os.environ["GIT_CEILING_DIRECTORIES"] = str(COPY.parent)
        os.environ["LRA_GIT_COMMIT"] = (COPY / "COMMIT").read_text(encoding="utf-8").strip()
    os.execv(sys.executable, [sys.executable, str(script), *COMMANDS[name], *arguments])


if __name__ == "__main__":
    main()
