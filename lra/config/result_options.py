"""Where results lie: the options that the commands which read them have in common."""

import argparse
from pathlib import Path

from lra.paths import RESULTS


def folder(text: str) -> Path:
    """A folder given on the command line; one that is not there was misspelt."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return Path(text)


def arguments(parser: argparse.ArgumentParser) -> None:
    """--runs, --published, --bench"""
    parser.add_argument("--runs", type=folder, default=RESULTS / "runs", help="folder of records")
    parser.add_argument("--published", type=Path, default=RESULTS / "published", help="published numbers")
    parser.add_argument("--bench", type=Path, default=RESULTS / "bench", help="folder of benchmark files")
