"""A whole S4 or S4D layer, two-sided with gated output: error against float64, time and memory of a pass each way."""

import argparse
import copy
from pathlib import Path

import torch

from benchmarks import options, plots, s4_repo
from lra.ops.ssm_kernels.dispatch import BACKENDS, select_backend, unavailable_reason
from lra.profiling.timing import timed
from models.s4 import S4
from models.s4d import S4D

MODELS = {"s4": S4, "s4d": S4D}
# features on which errors are measured: the float64 definition is slow
FEATURES = 8


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS, nargs="+", default=["s4"])
    parser.add_argument(
        "--shapes", nargs="+", default=["16,128,1024", "4,256,4096", "1,256,16384"], metavar="B,H,L", help="sizes"
    )
    parser.add_argument("--N", type=int, default=64)
    parser.add_argument("--backends", nargs="+", default=["auto"], choices=["auto", *BACKENDS])
    parser.add_argument("--bf16", action="store_true", help="under autocast to bfloat16")
    options.arguments(parser, peer=True)


def run(args: argparse.Namespace) -> list[dict]:
    torch.set_num_threads(args.threads or torch.get_num_threads())
    rows = []
    for shape in args.shapes:
        B, H, L = options.sizes(shape)
        for model in args.model:
            for backend in args.backends:
                if backend != "auto" and (reason := unavailable_reason(backend, args.device)):
                    print(f"{backend}: {reason}")
                    continue
                print(f"{model} B {B} H {H} L {L} {backend}", flush=True)
                rows.append(measure(model, B, H, args.N, L, backend, args))
        for path in args.peer_path if args.peer else ():
            print(f"B {B} H {H} L {L} peer, {path}", flush=True)
            rows.append(s4_repo.row("layer", args, path, B=B, H=H, N=args.N, L=L))
    return rows


def measure(model: str, B: int, H: int, N: int, L: int, backend: str, args: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    layer = MODELS[model](H, L, d_state=N, backend=backend).to(args.device)
    x = torch.randn(B, L, H, device=args.device, requires_grad=True)
    mask = torch.ones(B, L, dtype=torch.bool, device=args.device)

    def forward() -> torch.Tensor:
        with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.bf16):
            return layer(x, mask)

    def backward() -> None:
        forward().sum().backward()
        layer.zero_grad(set_to_none=True)
        x.grad = None

    value, gradient = relative_errors(MODELS[model](FEATURES, L, d_state=N, backend=backend).to(args.device), L)
    ahead, both = timed(forward, args.device, repeats=args.repeats), timed(backward, args.device, repeats=args.repeats)
    return {
        "model": model, "B": B, "H": H, "N": N, "L": L, "backend": select_backend(backend, args.device),
        "forward ms": 1e3 * ahead.seconds, "forward+backward ms": 1e3 * both.seconds,
        "peak MiB": both.peak_bytes / 2**20, "value error": value, "gradient error": gradient,
    }  # fmt: skip


def relative_errors(layer: torch.nn.Module, L: int) -> tuple[float, float]:
    """Of the output, and the worst of the gradients, against the definition in float64, in the 2-norm.

    A gradient that vanishes beside the others has no error of its own.
    """
    exact = copy.deepcopy(layer).double()
    exact.backend = "reference"
    device = layer.D.device
    x, weight = (torch.randn(2, L, len(layer.D), dtype=torch.float64, device=device) for _ in range(2))
    results = []
    for module, dtype in ((layer, torch.float32), (exact, torch.float64)):
        mine = x.to(dtype).requires_grad_()
        y = module(mine, torch.ones(2, L, dtype=torch.bool, device=device))
        gradients = torch.autograd.grad(y, [mine, *module.parameters()], weight.to(dtype))
        results.append((y, *gradients))
    largest = max(b.norm() for b in results[1][1:])
    value, *gradients = (
        ((a - b).norm() / b.norm()).item() for a, b in zip(*results, strict=True) if b.norm() > 1e-6 * largest
    )
    return value, max(gradients)


def plot(rows: list[dict], path: Path) -> None:
    plots.grouped(
        rows,
        path,
        group=lambda row: f"B {row['B']}, H {row['H']}, L {row['L']}",
        name=lambda row: f"{row['model']}, {row['backend']}",
        title="one layer, two-sided, gated output; a missing bar did not run",
    )
