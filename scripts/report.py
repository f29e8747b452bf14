"""Write one self-contained HTML page from the records in results/runs: table, learning curves, plots, runs."""

import handover

import argparse
import sys
from pathlib import Path

from lra.config import result_options
from lra.io.atomic import atomic_write, ensure_writable
from lra.paths import ROOT
from lra.records.benchmark import load_bench
from lra.records.published import load_published
from lra.records.store import load_all
from lra.report import readme
from lra.report.page import page
from lra.tables.aggregate import aggregate
from lra.tables.build import main_scale


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    result_options.arguments(parser)
    parser.add_argument("--out", type=Path, default=ROOT / "results/report.html", help="file for the page")
    parser.add_argument("--scale", help="paper, mini or smoke; default: the largest with runs of an unchanged recipe")
    parser.add_argument("--readme", action="store_true", help="update README.md: the result table and its picture")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    try:
        records, published = load_all(args.runs), load_published(args.published)
        scale = args.scale or main_scale(records)
        if args.readme:
            for path in readme.update(ROOT, aggregate(records, published, scale)):
                print(path)
            return 0
        ensure_writable(args.out.parent, "--out=/some/file.html")
        text = page(records, published, scale, load_bench(args.bench))
        atomic_write(args.out, text, hint="--out=/some/file.html")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    runs = sum(r.scale == scale for r in records)
    print(f"{args.out}: scale {scale}, {runs} run{'s' * (runs != 1)}, {len(text.encode()) / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    handover.run(main)
