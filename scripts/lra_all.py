"""Every task x model x seed at one scale: what exists is skipped, what was interrupted goes on, failures stop nothing.

    make lra-all SCALE=mini MODELS=s4,transformer TASKS=listops,pathfinder SEEDS=0,1,2 JOBS=2
    make lra-all SCALE=paper LAUNCHER=slurm            # the same on a cluster: docs/clusters.md

Each cell is one `scripts/train.py` in a process of its own, so that one crash loses one cell; what it prints goes to a
log, and an overview is shown instead. Jobs are spread over the GPUs there are. --dry-run says what a grid would cost.
"""

import handover

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from lra.config import tuned
from lra.config.overrides import check_command_line
from lra.io.atomic import ensure_writable
from lra.launch import plan
from lra.launch.grid import STOPPED, GridJob, cells_of, names, outcome, outdated
from lra.launch.local import WorkerPool, gpus
from lra.paths import ROOT
from lra.records.published import TASKS

console = Console(stderr=True)


def refuse(message: str) -> None:
    print(f"lra-all: {message}", file=sys.stderr)
    sys.exit(2)


def listed(text: str, known: list[str], default: list[str], what: str) -> list[str]:
    """Comma-separated names, checked; empty: the default."""
    chosen = [word.strip() for word in text.split(",") if word.strip()] or default
    for word in chosen:
        if word not in known:
            refuse(f"{what} {word!r} is unknown; known: {', '.join(known)}")
    return chosen


def summary(cells: list[GridJob]) -> bool:
    """Says what is not well; True if everything is."""
    bad = [(cell, record) for cell in cells if (record := cell.record()) is None or record.status != "ok"]
    if bad:
        console.print(f"{len(bad)} of {len(cells)} cells have no result:", highlight=False)
    for cell, record in bad:
        line = f"{cell}: {outcome(cell, record)}"
        console.print(line, highlight=False, soft_wrap=True, style="red", markup=False)
    return not bad


def remark(done: list[GridJob]) -> None:
    """Says which of the cells that exist are not what they would be today."""
    if old := outdated(done):
        count = f"{len(old)} of those that exist were made with other settings than this scale has now"
        cure = "move the files away, and the cells are trained anew"
        where = ", ".join(str(cell.path) for cell in old)
        console.print(f"{count}: {where}; {cure}", highlight=False, soft_wrap=True, style="yellow", markup=False)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="paper")
    parser.add_argument("--models", default="", help="comma-separated; empty: all of configs/model")
    parser.add_argument("--tasks", default="", help="comma-separated; empty: the six of LRA")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--launcher", default="local", help="local, or a file of configs/launcher: slurm")
    parser.add_argument("--results", type=Path, default=Path("results/runs"))
    parser.add_argument("--tables", type=Path, default=Path("results/tables"))
    parser.add_argument("--dry-run", action="store_true", help="print commands, time and memory of the plan, and end")
    parser.add_argument("overrides", nargs="*", help="more arguments of scripts/train.py, for every cell")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    scale = listed(args.scale, names("scale"), ["paper"], "scale")[0]
    models = listed(args.models, names("model"), names("model"), "model")
    tasks = listed(args.tasks, names("task"), list(TASKS), "task")
    launcher = listed(args.launcher, ["local", *names("launcher")], ["local"], "launcher")[0]
    try:
        seeds = [int(seed) for seed in args.seeds.split(",")]
    except ValueError:
        refuse(f"seeds {args.seeds!r}: whole numbers separated by commas")
    if args.jobs < 1:
        refuse(f"jobs {args.jobs}: at least 1")
    cells = cells_of(models, tasks, seeds, scale, args.results, args.overrides)
    todo = [cell for cell in cells if not cell.done]
    tuned.offer()
    if args.overrides:
        check_command_line(cells[0].words)
    count = f"{len(cells)} cell{'s' * (len(cells) != 1)}"
    console.print(f"{count} at scale {scale}: {len(cells) - len(todo)} exist, {len(todo)} to do")
    remark([cell for cell in cells if cell.done])
    if args.dry_run:
        for cell in todo:
            print(cell.command)
        plan.show(todo, console, jobs=args.jobs)
        return 0
    if launcher == "local" and scale == "paper" and todo and not gpus():
        hint = "make lra-all ARGS=--dry-run says how long they take, and SCALE=mini is for machines like this one"
        console.print(f"no GPU here, and the published recipes are made for one: {hint}", soft_wrap=True)
    try:
        for folder, cure in ((ROOT / args.results, "--results=/some/dir"), (cells[0].runs, "runs=/some/dir")):
            ensure_writable(folder, cure)
    except OSError as error:
        refuse(str(error))
    if launcher == "local":
        whole = WorkerPool(todo, args.jobs, console, plan.known(todo)).run()
    else:
        from lra.launch import slurm

        signal.signal(signal.SIGINT, signal.default_int_handler)
        whole = slurm.run(todo, launcher, console)
    if not whole:
        console.print("stopped; the same command goes on from here")
        return STOPPED
    well = summary(cells)
    tables = [f"--runs={args.results}", f"--out={args.tables}", f"--scale={scale}"]
    written = subprocess.run([sys.executable, str(ROOT / "scripts" / "tables.py"), *tables], cwd=ROOT, check=False)
    return 0 if well and written.returncode == 0 else 1


if __name__ == "__main__":
    handover.run(main)
