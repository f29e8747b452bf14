"""A whole state-space model of a recipe by kernel backend: error against float64, time and memory.

Sizes are those of the task's recipe; input is random. Errors are of the scores and of the whole gradient of the loss on
one example, without dropout and with running batch-norm averages, against the same model in float64 with the reference
kernels.
"""

import argparse
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from benchmarks import options, plots
from benchmarks.options import Row
from benchmarks.step import batch_size, configuration, random_batch
from lra.errors import UserError
from lra.ops.ssm_kernels.dispatch import BACKENDS
from lra.task import Batch


def arguments(parser: argparse.ArgumentParser) -> None:
    options.config_arguments(parser, ["listops", "image"], ["s4", "s4d"], "paper")
    parser.add_argument("--B", type=int, help="largest batch size; default: the recipe's")
    parser.add_argument("--backends", nargs="+", default=[*reversed(BACKENDS)], choices=BACKENDS, help="default: all")
    options.arguments(parser)


def run(args: argparse.Namespace) -> list[Row]:
    rows = []
    for task in args.task:
        for model in args.model:
            for backend, _ in options.available(args.backends, args.device):
                print(f"{model} on {task}, {backend}", flush=True)
                rows.append(measure(task, model, backend, args))
    return rows


def measure(task: str, model: str, backend: str, args: argparse.Namespace) -> Row:
    torch.manual_seed(0)
    cfg = configuration(task, model, args)
    if "backend" not in cfg.model.mixer:
        raise UserError(f"--model {model} has no kernel backend", hint="a state-space model such as s4, s4d or dss")
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

    columns, _ = options.passes(forward, backward, args)
    sizes = {"task": task, "model": model, "B": B, "L": spec.max_len, "backend": backend}
    return sizes | columns | {"value error": value, "gradient error": gradient}


def relative_errors(net: nn.Module, batch: Batch) -> tuple[float, float]:
    """2-norm errors of the scores and of the whole gradient."""
    results = []
    for model in (net.eval(), options.reference_copy(net).eval()):
        dtype = next(model.parameters()).dtype
        scores = model(batch.x.to(dtype) if batch.x.is_floating_point() else batch.x, batch.mask)
        gradients = torch.autograd.grad(nn.functional.cross_entropy(scores, batch.y), [*model.parameters()])
        results.append((scores, torch.cat([g.double().flatten() for g in gradients])))
    net.train()
    return options.relative_errors(*results)


def plot(rows: list[Row], path: Path) -> None:
    plots.grouped(
        rows,
        path,
        group=lambda row: f"{row['model']}, {row['task']}, B {row['B']}",
        name=lambda row: row["backend"],
        title="whole model of a recipe, by kernel backend",
    )
