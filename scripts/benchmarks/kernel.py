"""S4's and S4D's convolution kernels, parameters to taps: error against float64, time and memory of every backend.

The two-sided kernel of H features, state N, length L, as a layer builds it, for every backend that can run here. "first
call" is all that a process waits for at first: finding out whether the backend runs, loading or building it, one pass
forward and one each way.
"""

import argparse
import copy
import os
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import options, s4_repo
from lra.io.atomic import write_figure
from lra.ops.ssm_kernels.dispatch import BACKENDS, unavailable_reason
from lra.profiling.timing import timed
from models.s4 import S4
from models.s4d import S4D

MODELS = {"s4": S4, "s4d": S4D}
# features on which errors are measured: the float64 definition is slow
FEATURES = 8


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS, nargs="+", default=["s4"])
    parser.add_argument("--H", type=int, nargs="+", default=[256])
    parser.add_argument("--N", type=int, nargs="+", default=[64])
    parser.add_argument("--L", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--backends", nargs="+", default=[*reversed(BACKENDS)], choices=BACKENDS)
    options.arguments(parser, peer=True)
    parser.add_argument("--cold", action="store_true", help="build compiled and Triton kernels anew, in empty caches")


def run(args: argparse.Namespace) -> list[dict]:
    torch.set_num_threads(args.threads or torch.get_num_threads())
    if args.cold:
        with tempfile.TemporaryDirectory() as folder:
            os.environ |= {"XDG_CACHE_HOME": folder, "TRITON_CACHE_DIR": folder}
            return every(args)
    return every(args)


def every(args: argparse.Namespace) -> list[dict]:
    rows = []
    for model in args.model:
        for H in args.H:
            for N in args.N:
                for L in args.L:
                    for backend in args.backends:
                        start = time.perf_counter()
                        if reason := unavailable_reason(backend, args.device):
                            print(f"{backend}: {reason}")
                            continue
                        ready = time.perf_counter() - start
                        print(f"{model} H {H} N {N} L {L} {backend}", flush=True)
                        rows.append(measure(model, H, N, L, backend, args.device, args.repeats))
                        rows[-1]["first call s"] += ready
                    for path in args.peer_path if args.peer and model == "s4" else ():
                        print(f"s4 H {H} N {N} L {L} peer, {path}", flush=True)
                        rows.append(s4_repo.row("kernel", args, path, H=H, N=N, L=L))
    return rows


def measure(model: str, H: int, N: int, L: int, backend: str, device: str, repeats: int) -> dict:
    torch.manual_seed(0)
    layer = MODELS[model](H, L, d_state=N, backend=backend).to(device)

    def forward() -> torch.Tensor:
        return layer.kernel(L)

    def backward() -> None:
        forward().sum().backward()
        layer.zero_grad(set_to_none=True)

    # before anything else has used the backend
    ahead, both = timed(forward, device, repeats=repeats), timed(backward, device, repeats=repeats)
    value, gradient = relative_errors(model, N, L, backend, device)
    reference_value, reference_gradient = relative_errors(model, N, L, "reference", device)
    return {
        "model": model, "H": H, "N": N, "L": L, "backend": backend,
        "forward ms": 1e3 * ahead.seconds, "forward+backward ms": 1e3 * both.seconds,
        "first call s": ahead.first_seconds + both.first_seconds,
        "peak MiB": both.peak_bytes / 2**20, "peak / kernel": both.peak_bytes / (4 * 2 * H * L),
        "value error": value, "of float32 reference": reference_value,
        "gradient error": gradient, "of float32 reference ": reference_gradient,
    }  # fmt: skip


def relative_errors(model: str, N: int, L: int, backend: str, device: str) -> tuple[float, float]:
    """Of the kernel, and the worst of the parameters' gradients, against the definition in float64, in the 2-norm."""
    torch.manual_seed(0)
    layer = MODELS[model](FEATURES, L, d_state=N, backend=backend).to(device)
    exact = copy.deepcopy(layer).double()
    exact.backend = "reference"
    weight = torch.randn(2, FEATURES, L, dtype=torch.float64, device=device)
    results = []
    for module in (layer, exact):
        kernel = module.kernel(L)
        names = [name for name, p in module.named_parameters() if not name.startswith(("D", "out"))]
        gradients = torch.autograd.grad(kernel, [module.get_parameter(name) for name in names], weight.to(kernel.dtype))
        results.append((kernel, *gradients))
    value, *gradients = (((a - b).norm() / b.norm()).item() for a, b in zip(*results, strict=True))
    return value, max(gradients)


def plot(rows: list[dict], path: Path) -> None:
    """Forward and backward time against length, one line for each backend."""
    from matplotlib.figure import Figure

    shapes = sorted({(row["model"], row["H"], row["N"]) for row in rows})
    figure = Figure(figsize=(5 * len(shapes), 4), layout="constrained")
    for axes, shape in zip(figure.subplots(1, len(shapes), squeeze=False)[0], shapes, strict=True):
        of_shape = [row for row in rows if (row["model"], row["H"], row["N"]) == shape]
        for backend in dict.fromkeys(row["backend"] for row in of_shape):
            ran = [row for row in of_shape if row["backend"] == backend and row.get("forward+backward ms")]
            points = sorted((row["L"], row["forward+backward ms"]) for row in ran)
            axes.loglog(*zip(*points, strict=True), marker="o", label=backend, base=2) if points else None
        axes.set(title="{} kernel, H {}, N {}".format(*shape), xlabel="length", ylabel="forward + backward, ms")
        axes.set_yscale("log", base=10)
        axes.grid(alpha=0.3)
        axes.legend()
    write_figure(figure, path, dpi=120)
