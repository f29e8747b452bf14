"""Under which conditions a benchmark runs: the options that most of scripts/bench_*.py have in common."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser, *, repeats: int = 5, peer: bool = False) -> None:
    """--device, --threads, --repeats; and --peer, --peer-path where the S4 repository can be timed beside ours."""
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch on the CPU; all of them if not given")
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds of which the median counts")
    if peer:
        also = "also time state-spaces/s4 from this checkout"
        parser.add_argument("--peer", type=Path, metavar="CHECKOUT", help=also)
        parser.add_argument("--peer-path", choices=["cuda", "keops", "plain"], nargs="+", default=["keops"])
