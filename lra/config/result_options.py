"""Command-line options that the scripts reading results share."""

import argparse
from pathlib import Path

from lra.paths import RESULTS


def existing_folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"no such folder: {text}")
    return Path(text)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add --runs, --published and --bench."""
    parser.add_argument("--runs", type=existing_folder, default=RESULTS / "runs", help="folder of records")
    parser.add_argument("--published", type=Path, default=RESULTS / "published", help="folder of published numbers")
    parser.add_argument("--bench", type=Path, default=RESULTS / "bench", help="folder of benchmark files")
