"""Under which conditions a benchmark runs: the options that most of scripts/bench_*.py have in common."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser, *, repeats: int = 5, peer: bool = False) -> None:
    """--device, --threads, --repeats; and --peer, --peer-path where the S4 repository can be timed beside ours."""
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=positive, default=None, help="of PyTorch on the CPU; all if not given")
    parser.add_argument("--repeats", type=positive, default=repeats, help="rounds of which the median counts")
    if peer:
        also = "also time state-spaces/s4 from this checkout"
        parser.add_argument("--peer", type=Path, metavar="CHECKOUT", help=also)
        parser.add_argument("--peer-path", choices=["cuda", "keops", "plain"], nargs="+", default=["keops"])


def positive(text: str) -> int:
    """A count on the command line."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1 on is needed")
    return int(text)


def sizes(shape: str) -> tuple[int, int, int]:
    """B, H and L of a shape such as 16,128,1024."""
    numbers = shape.split(",")
    if len(numbers) != 3 or not all(n.isdecimal() and int(n) for n in numbers):
        raise ValueError(f"--shapes {shape}: three sizes from 1 on are needed, such as 16,128,1024")
    B, H, L = map(int, numbers)
    return B, H, L
