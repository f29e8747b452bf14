"""The long convolution in C++ (CPU) or Triton (CUDA) against PyTorch's Fourier transforms, forward and both passes.

One two-sided convolution with skip and mask, at the shapes of `bench.py layer`; all take turns. On CUDA, the other one
packs two rows into one transform (packed_convolution.py). "times" is the median over rounds of the time of PyTorch's
divided by that of the other.

On the CPU, "share of peak" is that of the multiply-add rate, by the usual count of 2.5 n log2 n operations for a real
transform of n = 2 L numbers; "share of copy" is that of the bytes per second of a large copy, if each tensor is read or
written once.
"""

import argparse
import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import options
from benchmarks.options import Row
from benchmarks.step import byte_rate
from lra.ops.fftconv import long_conv, only_torch

Convolution = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shapes", nargs="+", default=options.SHAPES, metavar="B,H,L", help="sizes")
    options.arguments(parser, repeats=15)


def run(args: argparse.Namespace) -> list[Row]:
    rows = []
    for shape in args.shapes:
        B, H, L = options.sizes(shape)
        print(f"B {B} H {H} L {L}", flush=True)
        rows.append(compare(B, H, L, args))
    return rows


def compare(B: int, H: int, L: int, args: argparse.Namespace) -> Row:
    torch.manual_seed(0)
    x, kernel, D = (torch.randn(*s, device=args.device, requires_grad=True) for s in ((B, L, H), (2, H, L), (H,)))
    mask = torch.ones(B, L, dtype=torch.bool, device=args.device)
    dy = torch.randn_like(x)
    on_cpu = x.device.type == "cpu"
    other = long_conv if on_cpu else packed()

    def forward(convolution: Convolution) -> None:
        with torch.no_grad():
            convolution(x.mT, kernel, D, mask)

    def both(convolution: Convolution) -> None:
        x.grad = kernel.grad = D.grad = None
        convolution(x.mT, kernel, D, mask).backward(dy.mT)

    def by_torch(work: Callable[[Convolution], None]) -> None:
        with only_torch():
            work(long_conv)

    works = [lambda w=w, run=run: run(w) for w in (forward, both) for run in (by_torch, lambda w: w(other))]
    for work in works:
        work()
    rounds = options.in_turns(works, args.device, args.repeats)
    row: Row = {"B": B, "H": H, "L": L}
    rates = (options.arithmetic_ceiling(), byte_rate(x.device)) if on_cpu else None
    for name, i, (flops, moved) in zip(("forward", "both"), (0, 2), work_of(B, H, L), strict=True):
        torch_seconds, seconds = (statistics.median(times[j] for times in rounds) for j in (i, i + 1))
        row[f"{name}, torch ms"], row[f"{name} ms"] = 1e3 * torch_seconds, 1e3 * seconds
        row[f"{name}, times"] = options.median_ratio(rounds, i, i + 1)
        if rates:
            row[f"{name}, share of peak"] = flops / seconds / rates[0]
            row[f"{name}, share of copy"] = moved / seconds / rates[1]
    return row


def work_of(B: int, H: int, L: int) -> tuple[tuple[float, int], tuple[float, int]]:
    """Operations of the transforms and bytes of all arguments and results, forward and both passes."""
    transform = 2.5 * 2 * L * math.log2(2 * L) * H
    u, kernel = 4 * B * H * L, 4 * 2 * H * L
    forward, backward = (1 + 2 * B, 2 * u + kernel), (2 + 3 * B, 3 * u + 2 * kernel)
    return (forward[0] * transform, forward[1]), ((forward[0] + backward[0]) * transform, forward[1] + backward[1])


def packed() -> Convolution:
    """Imported only here, because Triton does not exist for every system."""
    from benchmarks.packed_convolution import Packed

    return Packed.apply
