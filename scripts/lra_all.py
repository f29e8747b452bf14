"""Every task x model x seed at one scale: what exists is skipped, what was interrupted goes on, failures stop nothing.

    make lra-all SCALE=mini MODELS=s4,transformer TASKS=listops,pathfinder SEEDS=0,1,2 JOBS=2

Each cell is one `scripts/train.py` in a process of its own, so that one crash loses one cell; with several jobs its
output goes to a log file and an overview is shown instead. Jobs are spread over the GPUs there are.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from lra.published import TASKS
from lra.results import Record, load, record_path

ROOT = Path(__file__).resolve().parent.parent
console = Console(stderr=True)


@dataclass(frozen=True)
class Cell:
    model: str
    task: str
    seed: int
    scale: str

    def record(self, results: Path) -> Record | None:
        path = record_path(results, scale=self.scale, model=self.model, task=self.task, seed=self.seed, variant=[])
        try:
            return load(path) if path.exists() else None
        except ValueError as error:
            console.print(f"{error}; it will be written anew", highlight=False)
            return None

    def command(self, results: Path, overrides: list[str]) -> list[str]:
        names = [f"task={self.task}", f"model={self.model}", f"scale={self.scale}", f"seed={self.seed}"]
        return [sys.executable, str(ROOT / "scripts" / "train.py"), *names, f"results={results}", *overrides]

    def log(self) -> Path:
        return ROOT / "runs" / self.scale / self.task / self.model / f"{self.seed}.log"


def names(group: str) -> list[str]:
    return sorted(p.stem for p in (ROOT / "configs" / group).glob("*.yaml") if p.stem[0] != "_")


def listed(text: str, known: list[str], default: list[str], what: str) -> list[str]:
    """Comma-separated names, checked; empty: the default."""
    chosen = [word.strip() for word in text.split(",") if word.strip()] or default
    for word in chosen:
        if word not in known:
            print(f"lra-all: {what} {word!r} is unknown; known: {', '.join(known)}", file=sys.stderr)
            sys.exit(2)
    return chosen


def in_foreground(cells: list[Cell], results: Path, overrides: list[str]) -> None:
    """One after the other, each with its own progress bar."""
    for number, cell in enumerate(cells, 1):
        console.rule(f"{number} of {len(cells)}: {cell.model} on {cell.task}, seed {cell.seed}")
        status = subprocess.run(cell.command(results, overrides), cwd=ROOT, check=False).returncode
        if status == 130:
            console.print("stopped; the same command goes on from here")
            sys.exit(130)


def overview(running: dict[Cell, float], waiting: int, done: Counter, seconds: list[float], jobs: int) -> Table:
    left = ""
    if seconds:
        minutes = sum(seconds) / len(seconds) * (waiting + len(running)) / jobs / 60
        left = f", about {minutes:.0f} min left"
    counts = ", ".join(f"{n} {status}" for status, n in sorted(done.items()))
    table = Table(title=f"{len(running)} running, {waiting} waiting{', ' + counts if counts else ''}{left}")
    for column in ("model", "task", "seed", "minutes", "last line"):
        table.add_column(column, no_wrap=True)
    for cell, since in running.items():
        lines = cell.log().read_text(errors="replace").splitlines() if cell.log().exists() else []
        minutes = f"{(time.monotonic() - since) / 60:.1f}"
        table.add_row(cell.model, cell.task, str(cell.seed), minutes, lines[-1][:90] if lines else "")
    return table


def in_pool(cells: list[Cell], results: Path, overrides: list[str], jobs: int) -> None:
    """Several at a time, each with its share of the processor and a GPU of its own where there are enough."""
    import torch

    gpus = torch.cuda.device_count()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting, running, done, seconds = list(cells), {}, Counter(), []
    free = list(range(jobs))
    with Live(console=console, refresh_per_second=1) as live:
        while waiting or running:
            while waiting and free:
                cell, slot = waiting.pop(0), free.pop(0)
                cell.log().parent.mkdir(parents=True, exist_ok=True)
                environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
                if gpus:
                    environment["CUDA_VISIBLE_DEVICES"] = str(slot % gpus)
                with cell.log().open("w") as log:
                    command = cell.command(results, overrides)
                    child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
                running[cell] = (child, time.monotonic(), slot)
            for cell, (child, since, slot) in list(running.items()):
                if child.poll() is not None:
                    del running[cell]
                    free.append(slot)
                    seconds.append(time.monotonic() - since)
                    record = cell.record(results)
                    done[record.status if record else f"failed (status {child.returncode})"] += 1
            live.update(overview({c: since for c, (_, since, _) in running.items()}, len(waiting), done, seconds, jobs))
            time.sleep(0.5)


def summary(cells: list[Cell], results: Path) -> bool:
    """Says what is not well; True if everything is."""
    bad = [(cell, record) for cell in cells if (record := cell.record(results)) is None or record.status != "ok"]
    for cell, record in bad:
        reason = f"{record.status}: {record.reason}" if record else f"no record; see {cell.log().relative_to(ROOT)}"
        console.print(f"[red]{cell.model} on {cell.task}, seed {cell.seed}[/]: {reason}", highlight=False)
    return not bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="paper")
    parser.add_argument("--models", default="", help="comma-separated; empty: all of configs/model")
    parser.add_argument("--tasks", default="", help="comma-separated; empty: the six of LRA")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--results", type=Path, default=Path("results/runs"))
    parser.add_argument("--tables", type=Path, default=Path("results/tables"))
    parser.add_argument("--dry-run", action="store_true", help="print the plan and end")
    parser.add_argument("overrides", nargs="*", help="more arguments of scripts/train.py, for every cell")
    args = parser.parse_args()
    scale = listed(args.scale, names("scale"), ["paper"], "scale")[0]
    models = listed(args.models, names("model"), names("model"), "model")
    tasks = listed(args.tasks, names("task"), list(TASKS), "task")
    try:
        seeds = [int(seed) for seed in args.seeds.split(",")]
    except ValueError:
        print(f"lra-all: seeds {args.seeds!r}: whole numbers separated by commas", file=sys.stderr)
        return 2
    cells = [Cell(model, task, seed, scale) for seed in seeds for task in tasks for model in models]
    todo = [
        c for c in cells if (record := c.record(args.results)) is None or record.status in ("interrupted", "running")
    ]
    console.print(f"{len(cells)} cells at scale {scale}: {len(cells) - len(todo)} exist, {len(todo)} to do")
    if args.dry_run:
        for cell in todo:
            print(shlex.join(["python", *cell.command(args.results, args.overrides)[1:]]))
        return 0
    if args.jobs > 1:
        in_pool(todo, args.results, args.overrides, args.jobs)
    else:
        in_foreground(todo, args.results, args.overrides)
    well = summary(cells, args.results)
    tables = [f"--runs={args.results}", f"--out={args.tables}", f"--scale={scale}"]
    subprocess.run([sys.executable, str(ROOT / "scripts" / "tables.py"), *tables], cwd=ROOT, check=False)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
