"""Write the comparison tables from the records in results/runs as Markdown, CSV and LaTeX, and print the main one."""

import handover

import argparse
import sys
from pathlib import Path

from rich.console import Console

from lra.config import result_options
from lra.io.atomic import atomic_write
from lra.paths import ROOT
from lra.records.benchmark import load_bench
from lra.records.published import load_published
from lra.records.store import load_all
from lra.tables.build import main_scale, table_files
from lra.tables.comparison import scale_table
from lra.tables.formats import terminal


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    result_options.arguments(parser)
    parser.add_argument("--out", type=Path, default=ROOT / "results/tables", help="folder for the tables")
    parser.add_argument("--scale", help="scale to print; default: the largest with runs of an unchanged recipe")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    try:
        records = load_all(args.runs)
        published = load_published(args.published)
        files = table_files(records, published, load_bench(args.bench))
        for name, text in files.items():
            atomic_write(args.out / name, text, hint="--out=/some/dir")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if not args.quiet:
        shown = args.scale or main_scale(records)
        console = Console(width=None if sys.stdout.isatty() else 200)
        table = scale_table(records, published, shown, every_task=False)
        console.print(terminal(table, room=console.width))
        console.print(f"[dim]{len(files)} files in {args.out}[/dim]")
    return 0


if __name__ == "__main__":
    handover.run(main)
