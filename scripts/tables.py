"""Comparison tables from the records under results/runs: Markdown, CSV and LaTeX, and the main one on the screen."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# a script's own folder comes first on the path, and data.py in it would hide the package data
sys.path.insert(0, str(ROOT))
if __name__ == "__main__":
    from scripts import start

    start.script()

from rich.console import Console  # noqa: E402

from lra import places  # noqa: E402
from lra.efficiency import load_bench  # noqa: E402
from lra.jsonfile import write_atomically  # noqa: E402
from lra.published import load_published  # noqa: E402
from lra.results import load_all  # noqa: E402
from lra.tables import render_rich  # noqa: E402
from lra.tableset import main_scale, table_files  # noqa: E402


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    places.arguments(parser)
    parser.add_argument("--out", type=Path, default=ROOT / "results/tables", help="folder the tables are written to")
    parser.add_argument("--scale", help="show this scale; default: the largest with runs of an unchanged recipe")
    parser.add_argument("--quiet", action="store_true", help="write the files and show nothing")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    try:
        records = load_all(args.runs)
        published = load_published(args.published)
        files = table_files(records, published, load_bench(args.bench))
        for name, text in files.items():
            write_atomically(args.out / name, text, cure="--out=/some/dir")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if not args.quiet:
        shown = args.scale or main_scale(records)
        console = Console(width=None if sys.stdout.isatty() else 200)
        console.print(render_rich(records, published, shown, room=console.width))
        console.print(f"[dim]{len(files)} files in {args.out}[/dim]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
