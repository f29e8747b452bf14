"""Train every task x model x seed at one scale. Results are skipped, unfinished runs resume, failures stop nothing.

    make lra-all SCALE=mini MODELS=s4,transformer TASKS=listops,pathfinder SEEDS=0,1,2 JOBS=2
    make lra-all SCALE=paper LAUNCHER=slurm            # on a cluster: docs/clusters.md

Each run is a process of its own, so that a crash loses one run; its output goes to a log, and the screen shows an
overview. Jobs are spread over the GPUs. --dry-run prints what a grid would cost.
"""

import handover

import argparse
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lra.config.compose import check_command_line
from lra.config.overrides import die, forecasters, limited, nearest, options, task_words
from lra.errors import UserError
from lra.io.atomic import ensure_writable
from lra.launch import plan, slurm
from lra.launch.grid import STOPPED, GridJob, cells_of, outcome, outdated
from lra.launch.local import WorkerPool, visible_gpus
from lra.paths import ROOT
from lra.records.published import TASKS
from lra.tables.other_tasks import OTHER_TABLES

console = Console(stderr=True)


@dataclass(frozen=True)
class Group:
    """Tasks and models of a table of a paper."""

    tasks: tuple[str, ...]
    models: tuple[str, ...]


def tasks_of(*tables: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(setting.task for table in tables for setting in OTHER_TABLES[table].settings))


GROUPS = {
    "lra": Group(tuple(TASKS), tuple(name for name in options("model") if name not in limited())),
    "pixels": Group(tasks_of("s4_table6"), ("s4", "transformer", "lstm", "gru", "lssl", "dilated_cnn")),
    "speech": Group(("sc10-raw", "sc10-mfcc"), ("s4", "s4d", "lssl", "performer", "wavegan_d")),
    "density": Group(tasks_of("s4_table7"), ("s4_unet", "s4", "transformer", "linear_transformer")),
    "language": Group(tasks_of("s4_table8"), ("s4", "transformer", "linear_transformer")),
    "forecasting": Group(tasks_of("s4_table13", "s4_table14"), ("s4", "transformer", "lstm", *forecasters())),
}


def chosen(text: str, known: list[str], default: list[str], option: str) -> list[str]:
    """Comma-separated names; UserError for an unknown one. Empty: the default."""
    names = [word.strip() for word in text.split(",") if word.strip()] or default
    for name in names:
        if name not in known:
            raise UserError(f"{option} {name!r} is unknown (known: {', '.join(known)})", hint=nearest(name, known))
    return names


def print_failures(cells: list[GridJob]) -> bool:
    """Print the cells without a result; True if there is none."""
    failed = [(cell, record) for cell in cells if (record := cell.record()) is None or record.status != "ok"]
    if failed:
        console.print(f"{len(failed)} of {len(cells)} cells have no result:", highlight=False)
    for cell, record in failed:
        line = f"{cell}: {outcome(cell, record)}"
        console.print(line, highlight=False, soft_wrap=True, style="red", markup=False)
    return not failed


def print_outdated(done: list[GridJob]) -> None:
    """Print the records whose settings differ from today's."""
    if old := outdated(done):
        paths = ", ".join(str(cell.path) for cell in old)
        line = f"{len(old)} existing records were made with other settings than this scale has now: {paths}"
        line += "; hint: move the files away to train these cells again"
        console.print(line, highlight=False, soft_wrap=True, style="yellow", markup=False)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="paper", help="of configs/scale; default: paper")
    parser.add_argument("--group", default="lra", help="default tasks and models: lra, pixels, speech or forecasting")
    parser.add_argument("--models", default="", help="comma-separated; empty: those of the group, for LRA every model")
    parser.add_argument("--tasks", default="", help="comma-separated, such as etth1-uni-24; empty: the group's")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--launcher", default="local", help="local, or a file of configs/launcher: slurm")
    parser.add_argument("--results", type=Path, default=Path("results/runs"), help="folder of records")
    parser.add_argument("--tables", type=Path, default=Path("results/tables"), help="folder of tables")
    parser.add_argument("--dry-run", action="store_true", help="print commands, time and memory of the plan, and end")
    parser.add_argument("overrides", nargs="*", help="more arguments of scripts/train.py, for every cell")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    try:
        return run(args)
    except (ValueError, OSError) as error:
        die(error, "lra-all")


def run(args: argparse.Namespace) -> int:
    """Plan, train and tabulate the grid; returns the exit status."""
    scale = chosen(args.scale, options("scale"), ["paper"], "scale")[0]
    group = GROUPS[chosen(args.group, list(GROUPS), ["lra"], "group")[0]]
    models = chosen(args.models, options("model"), list(group.models), "model")
    tasks = [word.strip() for word in args.tasks.split(",") if word.strip()] or list(group.tasks)
    for task in tasks:
        task_words(task)  # refuses an unknown one
    launcher = chosen(args.launcher, ["local", *options("launcher")], ["local"], "launcher")[0]
    try:
        seeds = [int(seed) for seed in args.seeds.split(",")]
    except ValueError:
        raise UserError(f"seeds {args.seeds!r}: not whole numbers separated by commas", hint="0,1,2") from None
    if args.jobs < 1:
        raise UserError(f"jobs {args.jobs}: less than 1")
    cells = cells_of(models, tasks, seeds, scale, args.results, args.overrides)
    if args.overrides:
        check_command_line(cells[0].words)
    todo = [cell for cell in cells if not cell.done]
    count = f"{len(cells)} cell{'s' * (len(cells) != 1)}"
    console.print(f"{count} at scale {scale}: {len(cells) - len(todo)} exist, {len(todo)} to do")
    print_outdated([cell for cell in cells if cell.done])
    if args.dry_run:
        for cell in todo:
            print(cell.command)
        plan.show(todo, console, jobs=args.jobs)
        return 0
    if launcher == "local" and scale == "paper" and todo and not visible_gpus():
        hint = "make lra-all ARGS=--dry-run shows how long they take; SCALE=mini is for machines like this one"
        console.print(f"no GPU here, and the published recipes are made for one; hint: {hint}", soft_wrap=True)
    ensure_writable(ROOT / args.results, "--results=/some/dir")
    ensure_writable(cells[0].runs, "runs=/some/dir")
    if launcher == "local":
        finished = WorkerPool(todo, args.jobs, console, plan.known(todo)).run()
    else:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        finished = slurm.run(todo, launcher, console)
    if not finished:
        console.print("stopped; the same command resumes it")
        return STOPPED
    complete = print_failures(cells)
    tables = [f"--runs={args.results}", f"--out={args.tables}", f"--scale={scale}"]
    written = subprocess.run([sys.executable, str(ROOT / "scripts" / "tables.py"), *tables], cwd=ROOT, check=False)
    return 0 if complete and written.returncode == 0 else 1


if __name__ == "__main__":
    handover.run(main)
