"""Benchmarks: python scripts/bench.py {kernel,layer,...} [options]; one file each, scripts/benchmarks/<name>.py.

A benchmark defines `arguments(parser)` and `run(args) -> rows`, flat dictionaries that are printed as a table, and
optionally `plot(rows, path)`. One that fills a table of a paper names it in `TABLE` and defines `figures(rows)`, the
cells that lra.tables.efficiency reads.
"""

import handover

import argparse
import importlib
import json
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.table import Table

from lra.io.atomic import atomic_write, ensure_writable
from lra.records.environment import git, now
from lra.training.allocator import keep_freed_memory

BENCHMARKS = [
    "attention",
    "convolution",
    "generate",
    "kernel",
    "launch",
    "layer",
    "library",
    "loop",
    "lssl",
    "model",
    "step",
    "stepping",
]
IMAGE_FORMATS = (".png", ".svg", ".pdf")


def main() -> None:
    # otherwise PyTorch, imported after this, prints warnings of its profiler, which counts the memory
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch

    from benchmarks import options

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in BENCHMARKS:
        module = importlib.import_module(f"benchmarks.{name}")
        command = commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        command.set_defaults(module=module, plot=None)
        command.add_argument("--json", type=Path, metavar="FILE", help="write rows and conditions to this file")
        if hasattr(module, "plot"):
            command.add_argument("--plot", type=image_path, metavar="FILE", help="plot the rows to this file")
        module.arguments(command)
    args = parser.parse_args()
    started = now()
    warnings.simplefilter("ignore")
    try:
        for option in ("json", "plot"):
            if path := getattr(args, option):
                ensure_writable(path.parent, f"--{option}=/some/file")
        if getattr(args, "threads", None):
            torch.set_num_threads(args.threads)
        if getattr(args, "device", "cpu") == "cpu":
            keep_freed_memory()  # as in training
        rows = args.module.run(args)
        Console(width=None if sys.stdout.isatty() else 200).print(table(rows))
        if args.json:
            write_json(args.module, rows, args, options.conditions(args, started))
        if args.plot:
            args.module.plot(rows, args.plot)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"bench.py {args.command}: {error}")


def image_path(text: str) -> Path:
    if Path(text).suffix not in IMAGE_FORMATS:
        raise argparse.ArgumentTypeError(f"{text} does not end in {', '.join(IMAGE_FORMATS)}")
    return Path(text)


def write_json(module: ModuleType, rows: list[dict], args: argparse.Namespace, conditions: dict) -> None:
    """Write the rows with the conditions they were measured under."""
    paper = hasattr(module, "TABLE")
    content = {
        **({"table": module.TABLE} if paper else {"benchmark": args.command}),
        **conditions,
        **({"peer": git(args.peer).model_dump()} if getattr(args, "peer", None) else {}),
        "rows": module.figures(rows) if paper else rows,
    }
    atomic_write(args.json, json.dumps(content, indent=1) + "\n", hint="--json=/some/file")


def table(rows: list[dict]) -> Table:
    """The rows as a table with a column for each key; a missing value is a dash."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = Table(*columns)
    for row in rows:
        out.add_row(*(cell(row.get(column)) for column in columns))
    return out


def cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    handover.run(main)
