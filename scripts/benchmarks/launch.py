"""Launch parameters of the Triton kernels: which block sizes and numbers of warps are fastest on this GPU."""

import argparse
from collections.abc import Callable
from itertools import product

import torch

from benchmarks.options import MODELS, Row
from lra.ops.ssm_kernels.dispatch import unavailable_reason
from lra.profiling.timing import timed


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS, default="s4", help="default: s4")
    parser.add_argument("--H", type=int, default=256, help="features")
    parser.add_argument("--N", type=int, default=64, help="size of the state")
    parser.add_argument("--L", type=int, default=16384, help="length")
    parser.add_argument("--device", default="cuda", help="of torch; default: cuda")
    parser.add_argument("--repeats", type=int, default=20, help="rounds, of which the median counts")


def run(args: argparse.Namespace) -> list[Row]:
    if reason := unavailable_reason("triton", args.device):
        raise RuntimeError(f"the Triton kernels cannot run: {reason}")
    from triton.runtime.errors import OutOfResources

    from lra.ops.ssm_kernels.triton import backend

    torch.manual_seed(0)
    layer = MODELS[args.model](args.H, args.L, d_state=args.N, backend="triton").to(args.device)

    def forward() -> torch.Tensor:
        return layer.kernel(args.L)

    def backward() -> None:
        forward().sum().backward()

    def ms(work: Callable[[], object]) -> float | None:
        try:
            return 1e3 * timed(work, args.device, repeats=args.repeats).seconds
        except OutOfResources:
            return None  # needs more registers or shared memory than the device has

    rows: list[Row] = []
    default = dict(backend.REDUCE)
    for block, warps in product((128, 256, 512, 1024), (2, 4, 8)):
        backend.SUMS = {"BLOCK": block, "num_warps": warps}
        rows.append({"sums": f"{block}, {warps} warps", "reduction": "-", "forward ms": ms(forward),
                     "forward+backward ms": ms(backward)})  # fmt: skip
    best = min((row for row in rows if row["forward ms"]), key=lambda row: row["forward ms"])["sums"]
    backend.SUMS = {"BLOCK": int(best.split(",")[0]), "num_warps": int(best.split()[1])}
    for poles, block, warps in product((1, 2, 4, 8), (32, 64, 128, 256), (1, 2, 4)):
        if not 32 * warps <= poles * block <= 256 * warps:
            continue
        backend.REDUCE = {"POLES": poles, "BLOCK": block, "num_warps": warps}
        rows.append({"sums": best, "reduction": f"{poles} x {block}, {warps} warps", "forward ms": None,
                     "forward+backward ms": ms(backward)})  # fmt: skip
    backend.REDUCE = default
    return rows
