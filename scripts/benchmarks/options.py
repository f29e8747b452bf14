"""What several benchmarks share: command-line options, backends that can run, timing in turns, errors, conditions."""

import argparse
import copy
import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import UserError
from lra.io.redact import portable
from lra.ops.cpp_library import library
from lra.ops.ssm_kernels.dispatch import unavailable_reason
from lra.profiling.timing import Measurement, seconds, timed
from lra.records.environment import git, hardware, versions
from models.s4 import S4
from models.s4d import S4D

Row = dict[str, Any]

MODELS = {"s4": S4, "s4d": S4D}
SHAPES = ["16,128,1024", "4,256,4096", "1,256,16384"]


def arguments(parser: argparse.ArgumentParser, *, repeats: int = 5, peer: bool = False) -> None:
    """--device, --threads, --repeats; with peer also --peer and --peer-path, which time the S4 repository."""
    parser.add_argument("--device", default="cpu", help="of torch; default: cpu")
    parser.add_argument("--threads", type=positive, help="of PyTorch on the CPU; default: all")
    parser.add_argument("--repeats", type=positive, default=repeats, help="rounds, of which the median counts")
    if peer:
        parser.add_argument("--peer", type=Path, metavar="CHECKOUT", help="also time state-spaces/s4 in this checkout")
        parser.add_argument(
            "--peer-path", choices=["cuda", "keops", "plain"], nargs="+", default=["keops"], help="its kernels to time"
        )


def config_arguments(parser: argparse.ArgumentParser, tasks: list[str], models: list[str], scale: str) -> None:
    """--task, --model, --scale, --set: which configurations of scripts/train.py to measure."""
    parser.add_argument("--task", nargs="+", default=tasks, help=f"default: {' '.join(tasks)}")
    parser.add_argument("--model", nargs="+", default=models, help=f"default: {' '.join(models)}")
    parser.add_argument("--scale", default=scale, help=f"default: {scale}")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides as for scripts/train.py")


def positive(text: str) -> int:
    """A positive number on the command line."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def sizes(shape: str) -> tuple[int, int, int]:
    """B, H and L of a shape such as 16,128,1024."""
    numbers = shape.split(",")
    if len(numbers) != 3 or not all(n.isdecimal() and int(n) for n in numbers):
        raise UserError(f"--shapes {shape}: needs three positive sizes B,H,L", hint="16,128,1024")
    B, H, L = map(int, numbers)
    return B, H, L


def available(backends: Sequence[str], device: str) -> Iterator[tuple[str, float]]:
    """(backend, seconds to find out) for those that can run here; prints the reason for the others."""
    for backend in backends:
        start = time.perf_counter()
        if backend != "auto" and (reason := unavailable_reason(backend, device)):
            print(f"{backend}: {reason}")
        else:
            yield backend, time.perf_counter() - start


def passes(
    forward: Callable[[], Tensor], backward: Callable[[], None], args: argparse.Namespace
) -> tuple[Row, list[Measurement]]:
    """Time and memory of a forward pass, and of forward and backward together: columns of the row, and details."""
    measured = [timed(work, args.device, repeats=args.repeats) for work in (forward, backward)]
    row = {"forward ms": 1e3 * measured[0].seconds, "forward+backward ms": 1e3 * measured[1].seconds}
    return row | {"peak MiB": measured[1].peak_bytes / 2**20}, measured


def in_turns(works: Sequence[Callable[[], object]], device: torch.device | str, repeats: int) -> list[list[float]]:
    """Seconds of each work in every round. Taking turns spreads other load on the machine evenly."""
    return [[seconds(work, torch.device(device)) for work in works] for _ in range(repeats)]


def median_ratio(rounds: list[list[float]], numerator: int, denominator: int) -> float:
    """Median over the rounds of one work's time divided by another's."""
    return statistics.median(times[numerator] / times[denominator] for times in rounds)


def arithmetic_ceiling() -> float:
    """float32 operations per second of PyTorch's threads on registers alone, with the instruction set of the C++ loops.

    The best of ten bursts; a multiply-add is two operations.
    """
    burst = library("ceiling").multiply_adds
    burst.restype = ctypes.c_double
    rates = []
    for _ in range(10):
        start = time.perf_counter()
        rates.append(burst(2**20, torch.get_num_threads()) / (time.perf_counter() - start))
    return max(rates)


def reference_copy(net: nn.Module) -> Any:
    """The same model in float64, with the reference kernels."""
    exact: Any = copy.deepcopy(net).double()
    for module in exact.modules():
        if hasattr(module, "backend"):
            module.backend = "reference"
    return exact


def relative_errors(found: Sequence[Tensor], exact: Sequence[Tensor]) -> tuple[float, float]:
    """2-norm errors of the value, which comes first, and of the worst gradient."""
    value, *gradients = (((a - b).norm() / b.norm()).item() for a, b in zip(found, exact, strict=True))
    return value, max(gradients)


def conditions(args: argparse.Namespace, started: str) -> Row:
    """Command, time, commit, machine and versions of a measurement, for its file."""
    return {
        "command": portable(" ".join(["python", "scripts/bench.py", *sys.argv[1:]])),
        "started": started,
        "git": git().model_dump(),
        "hardware": hardware(getattr(args, "device", "cpu")).model_dump(),
        "versions": versions(),
    }
