"""Benchmarks: python scripts/bench.py {kernel,layer,...} [options]; one file each, scripts/benchmarks/<name>.py.

A benchmark defines `arguments(parser)` and `run(args) -> list of flat dictionaries`, one for each row of the table, and
may define `plot(rows, path)`. If it fills a table of a paper it names it in `TABLE`, and `figures(rows)` are the cells
that lra.tables.efficiency reads.
"""

import handover

import argparse
import importlib
import json
import os
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.table import Table

from lra.io.atomic import atomic_write, ensure_writable
from lra.io.redact import portable
from lra.records.environment import git, hardware, versions

BENCHMARKS = ["attention", "convolution", "kernel", "launch", "layer", "library", "loop", "lssl", "model", "step"]
PICTURES = (".png", ".svg", ".pdf")


def main() -> None:
    # PyTorch otherwise tells the terminal what its profiler, by which memory is counted, did not see
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    modules = {}
    for name in BENCHMARKS:
        module = importlib.import_module(f"benchmarks.{name}")
        command = commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        command.add_argument("--json", type=Path, metavar="FILE", help="write rows and conditions there")
        if hasattr(module, "plot"):
            command.add_argument("--plot", type=picture, metavar="FILE", help="draw the rows there")
        module.arguments(command)
        modules[name] = module
    args = parser.parse_args()

    started = datetime.now(UTC).isoformat(timespec="seconds")
    # a long run is seen as it goes, and says what it cannot run
    warnings.simplefilter("ignore")
    module = modules[args.command]
    try:
        for name in ("json", "plot"):
            if path := getattr(args, name, None):
                ensure_writable(path.parent, f"--{name}=/some/file")
        rows = module.run(args)
        Console(width=None if sys.stdout.isatty() else 200).print(table(rows))
        keep(module, rows, args, started)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"bench.py {args.command}: {error}")


def picture(text: str) -> Path:
    """The name of a picture on the command line."""
    if Path(text).suffix not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text}: a picture's name ends with {', '.join(PICTURES)}")
    return Path(text)


def keep(module: ModuleType, rows: list[dict], args: argparse.Namespace, started: str) -> None:
    """Write the files that were asked for; the older ones stay where one cannot be written."""
    if args.json:
        paper = hasattr(module, "TABLE")
        content = {
            **({"table": module.TABLE} if paper else {"benchmark": args.command}),
            "command": portable(" ".join(["python", "scripts/bench.py", *sys.argv[1:]])),
            "started": started,
            "git": git().model_dump(),
            "hardware": hardware(getattr(args, "device", "cpu")).model_dump(),
            "versions": versions(),
            **({"peer": git(args.peer).model_dump()} if getattr(args, "peer", None) else {}),
            "rows": module.figures(rows) if paper else rows,
        }
        atomic_write(args.json, json.dumps(content, indent=1) + "\n", hint="--json=/some/file")
    if getattr(args, "plot", None):
        module.plot(rows, args.plot)


def table(rows: list[dict]) -> Table:
    """The rows as they are, one column for each key; a hole is a dash."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = Table(*columns)
    for row in rows:
        out.add_row(*(show(row.get(column)) for column in columns))
    return out


def show(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    handover.run(main)
