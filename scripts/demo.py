"""Show the project in minutes: two models, two generated tasks, a table and a report. No network, no GPU.

Records go to results/scratch/demo, apart from the committed results. A second call shows them;
`make demo ARGS=--again` trains again.
"""

import handover

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from lra.paths import ROOT

DEMO = Path("results/scratch/demo")
TASKS, MODELS = "listops,pathfinder", "s4,transformer"
console = Console(stderr=True)


def script(name: str, *arguments: str) -> int:
    """Run another command of this folder; returns its exit status."""
    child = subprocess.Popen([sys.executable, str(ROOT / "scripts" / name), *arguments], cwd=ROOT)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            pass  # the terminal interrupts the child too, which saves before it ends


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="delete the last demo and train again")
    parser.add_argument("--scale", default="mini", help="mini, or smoke for a run of a minute")
    args = parser.parse_args()
    if args.again:
        shutil.rmtree(ROOT / DEMO, ignore_errors=True)
    console.print(
        "[bold]Long Range Arena, in small[/]: S4 and the Transformer on ListOps (what is the value of a nested "
        "expression?) and Pathfinder (are two discs joined by a dashed curve?), both generated here.\n"
    )
    begun = time.monotonic()
    folders = [f"--results={DEMO}/runs", f"--tables={DEMO}/tables"]
    status = script("lra_all.py", f"--scale={args.scale}", f"--tasks={TASKS}", f"--models={MODELS}", *folders)
    if status not in (0, 1):
        return 130 if status < 0 else status
    page = DEMO / "report.html"
    script("report.py", f"--runs={DEMO}/runs", f"--out={page}", f"--scale={args.scale}")
    console.print(f"\n{(time.monotonic() - begun) / 60:.1f} minutes. The report, with learning curves: [bold]{page}[/]")
    console.print(
        "\nNext:\n"
        "  .venv/bin/python scripts/train.py task=listops model=linear_transformer scale=mini  # another model\n"
        "  .venv/bin/python scripts/prepare_data.py show task=pathx                            # look at a task\n"
        "  make lra-all SCALE=mini TASKS=listops,pathfinder SEEDS=0,1,2                        # a whole table\n"
        "  make dashboard                                                                      # browse the curves\n"
        "  .venv/bin/python scripts/train.py task=listops model=s4                             # paper scale: a GPU\n",
        highlight=False,
        soft_wrap=True,
    )
    return status


if __name__ == "__main__":
    handover.run(main)
