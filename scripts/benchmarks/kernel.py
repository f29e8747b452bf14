"""S4's and S4D's convolution kernels from their parameters: error against float64, time and memory by backend.

The two-sided kernel of H features, state N, length L, by every backend that can run here. "first call" is the time
before everything is warm: availability check, load or build, the first forward pass and the first of both passes.

"share of peak" is the share of the processor's multiply-add rate that the C++ loops reach, counting the work of their
sums alone but the time of the whole kernel. CXXFLAGS=-march=x86-64-v3 or -v2 measures another instruction set.
"""

import argparse
import os
import tempfile
from itertools import product
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks import options, s4_repo
from benchmarks.options import MODELS, Row
from lra.io.atomic import write_figure
from lra.ops.ssm_kernels.dispatch import BACKENDS

# features for the errors: the float64 reference is slow
FEATURES = 8


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS, nargs="+", default=["s4"], help="default: s4")
    parser.add_argument("--H", type=int, nargs="+", default=[256], help="features")
    parser.add_argument("--N", type=int, nargs="+", default=[64], help="size of the state")
    parser.add_argument("--L", type=int, nargs="+", default=[1024, 4096, 16384], help="length")
    parser.add_argument("--backends", nargs="+", default=[*reversed(BACKENDS)], choices=BACKENDS, help="default: all")
    options.arguments(parser, peer=True)
    parser.add_argument("--cold", action="store_true", help="build compiled and Triton kernels again, in empty caches")


def run(args: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        if args.cold:
            os.environ |= {"XDG_CACHE_HOME": folder, "TRITON_CACHE_DIR": folder}
        rows = []
        for model, H, N, L in product(args.model, args.H, args.N, args.L):
            sizes = f"{model} H {H} N {N} L {L}"
            for backend, ready_seconds in options.available(args.backends, args.device):
                print(f"{sizes} {backend}", flush=True)
                rows.append(measure(model, H, N, L, backend, args))
                rows[-1]["first call s"] += ready_seconds
            for path in args.peer_path if args.peer and model == "s4" else ():
                print(f"{sizes} peer, {path}", flush=True)
                rows.append(s4_repo.row("kernel", args, path, H=H, N=N, L=L))
        return rows


def measure(model: str, H: int, N: int, L: int, backend: str, args: argparse.Namespace) -> Row:
    torch.manual_seed(0)
    layer = MODELS[model](H, L, d_state=N, backend=backend).to(args.device)

    def forward() -> torch.Tensor:
        return layer.kernel(L)

    def backward() -> None:
        forward().sum().backward()
        layer.zero_grad(set_to_none=True)

    # first, so that nothing has used the backend before
    columns, measured = options.passes(forward, backward, args)
    forward_share = both_share = None
    if (model, backend) == ("s4", "compiled"):
        peak, work = options.arithmetic_ceiling(), operations(H, N, L)
        forward_share, both_share = (n / m.seconds / peak for n, m in zip(work, measured, strict=True))
    value, gradient = relative_errors(model, N, L, backend, args.device)
    reference_value, reference_gradient = relative_errors(model, N, L, "reference", args.device)
    return {
        "model": model, "H": H, "N": N, "L": L, "backend": backend,
        "forward ms": columns["forward ms"], "forward+backward ms": columns["forward+backward ms"],
        "share of peak": forward_share, "share of peak, both": both_share,
        "first call s": sum(m.first_seconds for m in measured),
        "peak MiB": columns["peak MiB"], "peak / kernel": measured[1].peak_bytes / (4 * 2 * H * L),
        "value error": value, "of float32 reference": reference_value,
        "gradient error": gradient, "of float32 reference ": reference_gradient,
    }  # fmt: skip


def operations(H: int, N: int, L: int) -> tuple[int, int]:
    """Of the C++ loops for the two-sided S4 kernel, forward and both passes: on pairs of a pole and a frequency alone.

    lra/ops/csrc/cauchy.cpp: 1 / D takes 9; a sum has p / D and q / D, four multiply-adds. The backward pass computes
    1 / D and the sums that are not C x B again, then the gradients of p and q, and those of alpha and beta.
    """
    sums, for_value, outer = 6, 2, 17
    forward = 9 + 8 * sums
    backward = 9 + 8 * (sums - for_value) + 8 * sums + 8 * sums + outer
    pairs = H * ((N + 1) // 2) * (L // 2 + 1)
    return forward * pairs, (forward + backward) * pairs


def relative_errors(model: str, N: int, L: int, backend: str, device: str) -> tuple[float, float]:
    """2-norm errors of the kernel and of the worst gradient of a parameter, against the float64 reference."""
    torch.manual_seed(0)
    layer = MODELS[model](FEATURES, L, d_state=N, backend=backend).to(device)
    exact = options.reference_copy(layer)
    weight = torch.randn(2, FEATURES, L, dtype=torch.float64, device=device)
    results = []
    for module in (layer, exact):
        kernel = module.kernel(L)
        parameters = [p for name, p in module.named_parameters() if not name.startswith(("D", "out"))]
        results.append((kernel, *torch.autograd.grad(kernel, parameters, weight.to(kernel.dtype))))
    return options.relative_errors(*results)


def plot(rows: list[Row], path: Path) -> None:
    """Forward and backward time against length, one line for each backend."""
    shapes = sorted({(row["model"], row["H"], row["N"]) for row in rows})
    figure = Figure(figsize=(5 * len(shapes), 4), layout="constrained")
    for axes, shape in zip(figure.subplots(1, len(shapes), squeeze=False)[0], shapes, strict=True):
        points: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            if (row["model"], row["H"], row["N"]) == shape and row.get("forward+backward ms"):
                points.setdefault(row["backend"], []).append((row["L"], row["forward+backward ms"]))
        for backend, line in points.items():
            axes.loglog(*zip(*sorted(line), strict=True), marker="o", label=backend, base=2)
        axes.set(title="{} kernel, H {}, N {}".format(*shape), xlabel="length", ylabel="forward + backward, ms")
        axes.set_yscale("log", base=10)
        axes.grid(alpha=0.3)
        axes.legend()
    write_figure(figure, path, dpi=120)
