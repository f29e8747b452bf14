"""A whole state-space model of a recipe by every kernel backend: error against float64, time and memory.

Sizes are those of the task's recipe, input is random. Errors are of the scores and of the whole gradient of the loss on
one example, without dropout and with batch norm by its running averages, against the same model in float64 with the
kernels' definition.
"""

import argparse
import copy
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from benchmarks import options, plots
from benchmarks.step import batch_size, composed, random_batch
from lra.config import tuned
from lra.ops.ssm_kernels import dispatch
from lra.profiling.timing import timed


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", nargs="+", default=["listops", "image"])
    parser.add_argument("--model", nargs="+", default=["s4", "s4d"])
    parser.add_argument("--scale", default="paper")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="as for scripts/train.py")
    parser.add_argument("--B", type=int, default=None, help="examples of a batch at most; the recipe's if not given")
    parser.add_argument("--backends", nargs="+", default=[*reversed(dispatch.BACKENDS)], choices=dispatch.BACKENDS)
    options.arguments(parser)


def run(args: argparse.Namespace) -> list[dict]:
    torch.set_num_threads(args.threads or torch.get_num_threads())
    tuned.offer()
    rows = []
    for task in args.task:
        for model in args.model:
            for backend in args.backends:
                if reason := dispatch.unavailable_reason(backend, args.device):
                    print(f"{backend}: {reason}")
                    continue
                print(f"{model} on {task}, {backend}", flush=True)
                rows.append(measure(task, model, backend, args))
    return rows


def measure(task: str, model: str, backend: str, args: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    cfg = composed(task, model, args)
    if "backend" not in cfg.model.mixer:
        raise ValueError(f"{model} has no kernel backend: choose among the models that have, such as s4, s4d and dss")
    cfg.model.mixer.backend = backend
    spec, B = instantiate(cfg.task).spec, batch_size(cfg, args)
    net = instantiate(cfg.model, spec=spec).to(args.device)
    batch = random_batch(spec, B).to(torch.device(args.device))
    value, gradient = relative_errors(net, random_batch(spec, 1).to(torch.device(args.device)))

    def forward() -> Tensor:
        return net(batch.x, batch.mask)

    def backward() -> None:
        nn.functional.cross_entropy(forward(), batch.y).backward()
        net.zero_grad(set_to_none=True)

    ahead, both = timed(forward, args.device, repeats=args.repeats), timed(backward, args.device, repeats=args.repeats)
    return {
        "task": task, "model": model, "B": B, "L": spec.max_len, "backend": backend,
        "forward ms": 1e3 * ahead.seconds, "forward+backward ms": 1e3 * both.seconds,
        "peak MiB": both.peak_bytes / 2**20, "value error": value, "gradient error": gradient,
    }  # fmt: skip


def relative_errors(net: nn.Module, batch) -> tuple[float, float]:
    """Of the scores, and of the whole gradient, in the 2-norm."""
    exact = copy.deepcopy(net).double()
    for module in exact.modules():
        if hasattr(module, "backend"):
            module.backend = "reference"
    results = []
    for model in (net.eval(), exact.eval()):
        dtype = next(model.parameters()).dtype
        scores = model(batch.x.to(dtype) if batch.x.is_floating_point() else batch.x, batch.mask)
        gradients = torch.autograd.grad(nn.functional.cross_entropy(scores, batch.y), [*model.parameters()])
        results.append((scores, torch.cat([g.double().flatten() for g in gradients])))
    net.train()
    value, gradient = (((a - b).norm() / b.norm()).item() for a, b in zip(*results, strict=True))
    return value, gradient


def plot(rows: list[dict], path: Path) -> None:
    plots.grouped(
        rows,
        path,
        group=lambda row: f"{row['model']}, {row['task']}, B {row['B']}",
        name=lambda row: row["backend"],
        title="the whole model of a recipe by every kernel backend",
    )
