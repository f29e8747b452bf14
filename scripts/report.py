"""One self-contained HTML page from the records under results/runs: table, learning curves, plots, failures, runs."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# a script's own folder comes first on the path, and data.py in it would hide the package data
sys.path.insert(0, str(ROOT))
if __name__ == "__main__":
    from scripts import start

    start.script()

from lra import places  # noqa: E402
from lra.efficiency import load_bench  # noqa: E402
from lra.jsonfile import write_atomically  # noqa: E402
from lra.published import load_published  # noqa: E402
from lra.report import page  # noqa: E402
from lra.results import load_all  # noqa: E402
from lra.tableset import main_scale  # noqa: E402


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    places.arguments(parser)
    parser.add_argument("--out", type=Path, default=ROOT / "results/report.html", help="file the page is written to")
    parser.add_argument("--scale", help="paper, mini or smoke; default: the largest with runs of an unchanged recipe")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    try:
        records = load_all(args.runs)
        scale = args.scale or main_scale(records)
        text = page(records, load_published(args.published), scale, load_bench(args.bench))
        write_atomically(args.out, text, cure="--out=/some/file.html")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    runs = sum(r.scale == scale for r in records)
    print(f"{args.out}: scale {scale}, {runs} run{'s' * (runs != 1)}, {len(text.encode()) / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
