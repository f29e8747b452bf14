"""Comparison tables from the records under results/runs: Markdown, CSV and LaTeX, and the main one on the screen."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from lra.efficiency import load_bench
from lra.jsonfile import write_atomically
from lra.published import load_published
from lra.render import terminal
from lra.results import load_all
from lra.tables import scale_table
from lra.tableset import scales_of, table_files

ROOT = Path(__file__).resolve().parent.parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "results/runs", help="folder of records")
    parser.add_argument("--out", type=Path, default=ROOT / "results/tables", help="folder the tables are written to")
    parser.add_argument("--published", type=Path, default=ROOT / "results/published", help="published numbers")
    parser.add_argument("--bench", type=Path, default=ROOT / "results/bench", help="folder of benchmark files")
    parser.add_argument("--scale", help="show this scale; default: the largest that has runs")
    parser.add_argument("--quiet", action="store_true", help="write the files and show nothing")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    try:
        records = load_all(args.runs)
        published = load_published(args.published)
        benches = load_bench(args.bench)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    files = table_files(records, published, benches)
    for name, text in files.items():
        write_atomically(args.out / name, text)
    if not args.quiet:
        shown = args.scale or next(iter(scales_of(records)), "paper")
        console = Console()
        console.print(terminal(scale_table(records, published, shown, every_task=shown == "paper")))
        console.print(f"[dim]{len(files)} files in {args.out}[/dim]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
