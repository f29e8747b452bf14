"""A whole S4 or S4D layer, two-sided with gated output: error against float64, time and memory of both passes."""

import argparse
from pathlib import Path

import torch

from benchmarks import options, plots, s4_repo
from benchmarks.options import MODELS, Row
from lra.ops.ssm_kernels.dispatch import BACKENDS, select_backend
from models.s4 import S4
from models.s4d import S4D

# features for the errors: the float64 reference is slow
FEATURES = 8


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS, nargs="+", default=["s4"], help="default: s4")
    parser.add_argument("--shapes", nargs="+", default=options.SHAPES, metavar="B,H,L", help="sizes")
    parser.add_argument("--N", type=int, default=64, help="size of the state")
    parser.add_argument("--backends", nargs="+", default=["auto"], choices=["auto", *BACKENDS], help="default: auto")
    parser.add_argument("--bf16", action="store_true", help="under autocast to bfloat16")
    options.arguments(parser, peer=True)


def run(args: argparse.Namespace) -> list[Row]:
    rows = []
    for shape in args.shapes:
        B, H, L = options.sizes(shape)
        for model in args.model:
            for backend, _ in options.available(args.backends, args.device):
                print(f"{model} B {B} H {H} L {L} {backend}", flush=True)
                rows.append(measure(model, B, H, args.N, L, backend, args))
        for path in args.peer_path if args.peer else ():
            print(f"B {B} H {H} L {L} peer, {path}", flush=True)
            rows.append(s4_repo.row("layer", args, path, B=B, H=H, N=args.N, L=L))
    return rows


def measure(model: str, B: int, H: int, N: int, L: int, backend: str, args: argparse.Namespace) -> Row:
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
    columns, _ = options.passes(forward, backward, args)
    sizes = {"model": model, "B": B, "H": H, "N": N, "L": L, "backend": select_backend(backend, args.device)}
    return sizes | columns | {"value error": value, "gradient error": gradient}


def relative_errors(layer: S4 | S4D, L: int) -> tuple[float, float]:
    """2-norm errors of the output and of the worst gradient, against the float64 reference.

    Gradients that vanish compared to the others are left out.
    """
    device = layer.D.device
    x, weight = torch.randn(2, 2, L, len(layer.D), dtype=torch.float64, device=device)
    results = []
    for module, dtype in ((layer, torch.float32), (options.reference_copy(layer), torch.float64)):
        u = x.to(dtype).requires_grad_()
        y = module(u, torch.ones(2, L, dtype=torch.bool, device=device))
        results.append((y, *torch.autograd.grad(y, [u, *module.parameters()], weight.to(dtype))))
    largest = max(g.norm() for g in results[1][1:])
    kept = [pair for pair in zip(*results, strict=True) if pair[1].norm() > 1e-6 * largest]
    return options.relative_errors(*zip(*kept, strict=True))


def plot(rows: list[Row], path: Path) -> None:
    plots.grouped(
        rows,
        path,
        group=lambda row: f"B {row['B']}, H {row['H']}, L {row['L']}",
        name=lambda row: f"{row['model']}, {row['backend']}",
        title="one layer, two-sided, gated output; a missing bar did not run",
    )
