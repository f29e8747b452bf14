"""A whole training step of each (model, task) recipe: speed, memory and share of the hardware limit.

Model, loss, gradient clipping and optimiser at the recipe's sizes, on a batch of random input without padding. "floor"
is the time of a step that does only what cannot be avoided, at rates measured on this device just before. It is the
larger of

    bytes   12 passes over the (B, L, D) activations of every layer: forward reads and writes them for mixing along the
            length and across features (4), backward reads the inputs and reads and writes gradients for both (8); plus
            40 bytes per float32 parameter (three reads, and gradient and two moments read and written)
    FLOPs   three times those of a forward pass, counted by `lra.profiling.flops`

with bytes at the rate of a copy and FLOPs at that of a matrix product in the run's precision.

Variants (`--as float32 bf16 compile`) take turns; "times as fast" is the median over the rounds of the first variant's
time divided by the row's.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor, nn

from benchmarks import options, s4_repo
from benchmarks.options import Row
from lra.config.compose import composed
from lra.errors import UserError
from lra.io.atomic import write_figure
from lra.profiling.flops import forward_flops
from lra.profiling.parameters import count_parameters
from lra.profiling.timing import peak_bytes, seconds
from lra.task import Batch, TaskSpec
from lra.training.cuda_graphs import WARMUP_PASSES, GraphReplay, StepOutput
from lra.training.optim import adamw

WAYS = {
    "float32": "",
    "bf16": "autocast to bfloat16",
    "compile": "torch.compile of every block",
    "bf16+compile": "both",
    "graph": "forward and backward pass recorded as a CUDA graph",
    "compile+graph": "both",
    "bf16+compile+graph": "all three",
}
# a rate counts as measured once a call takes this many seconds
CALIBRATION = 0.05
TASKS = ["listops", "text", "retrieval", "image", "pathfinder", "pathx"]


def arguments(parser: argparse.ArgumentParser) -> None:
    options.config_arguments(parser, TASKS, ["s4"], "paper")
    parser.add_argument("--B", type=int, help="largest batch size; default: the recipe's")
    meaning = ", ".join(f"{way}: {what}" for way, what in WAYS.items() if what)
    parser.add_argument("--as", dest="ways", nargs="+", choices=WAYS, default=["float32"], metavar="WAY", help=meaning)
    options.arguments(parser, peer=True)
    parser.add_argument("--profile", type=Path, metavar="FILE", help="print the slowest operators, and write a trace")


def run(args: argparse.Namespace) -> list[Row]:
    device = torch.device(args.device)
    if device.type != "cuda" and (graphs := [way for way in args.ways if "graph" in way]):
        raise UserError(f"--as {' '.join(graphs)}: only CUDA has graphs", hint="--device cuda")
    rates = {"bytes": byte_rate(device)} | {precision(way): flop_rate(device, precision(way)) for way in args.ways}
    products = [f"{rate / 1e9:.0f} GFLOP/s in {kind}" for kind, rate in rates.items() if kind != "bytes"]
    print(f"rates: {rates['bytes'] / 1e9:.1f} GB/s, {', '.join(products)}", flush=True)
    rows = []
    for task in args.task:
        for model in args.model:
            print(f"{model} on {task}", flush=True)
            cfg = configuration(task, model, args)
            rows += measure(cfg, task, model, args, rates)
            if args.peer and model == "s4":
                rows += [peer_row(cfg, task, path, args) for path in args.peer_path]
    return rows


def configuration(task: str, model: str, args: argparse.Namespace) -> DictConfig:
    return composed([f"task={task}", f"model={model}", f"scale={args.scale}", *args.set])["cfg"]


def batch_size(cfg: DictConfig, args: argparse.Namespace) -> int:
    return min(cfg.task.batch_size, args.B or cfg.task.batch_size)


def precision(way: str) -> torch.dtype:
    return torch.bfloat16 if "bf16" in way else torch.float32


def measure(cfg: DictConfig, task: str, model: str, args: argparse.Namespace, rates: dict) -> list[Row]:
    """A row for each variant."""
    device, spec, B = torch.device(args.device), instantiate(cfg.task).spec, batch_size(cfg, args)
    nets, steps = [], []
    for way in args.ways:
        torch.manual_seed(0)
        nets.append(instantiate(cfg.model, spec=spec))
        steps.append(training_step(nets[-1].to(device), random_batch(spec, B).to(device), cfg, way))
    flops = 3 * B * forward_flops(nets[0], spec, longest=spec.max_len)
    sequences, n_parameters = B * (1 + spec.paired), count_parameters(nets[0])
    first = [seconds(step, device) for step in steps]
    # enough steps that graphs have been recorded, because recording takes the most memory
    peaks = [max(peak_bytes(step, device) for _ in range(WARMUP_PASSES + 1)) for step in steps]
    rounds = options.in_turns(steps, device, args.repeats)
    table = []
    for i, way in enumerate(args.ways):
        duration = statistics.median(times[i] for times in rounds)
        moved = 12 * sequences * spec.max_len * cfg.model.d_model * cfg.model.n_layers * precision(way).itemsize
        moved += 40 * n_parameters
        floor = max(moved / rates["bytes"], flops / rates[precision(way)])
        table.append({
            "task": task, "model": model, "as": way, "B": B, "L": spec.max_len, "parameters": n_parameters,
            "ms": 1e3 * duration, "times as fast": options.median_ratio(rounds, 0, i),
            "steps/s": 1 / duration, "examples/s": B / duration,
            "peak MiB": peaks[i] / 2**20, "first step s": first[i],
            "GB": moved / 1e9, "GFLOP": flops / 1e9, "floor ms": 1e3 * floor, "share of floor": floor / duration,
        })  # fmt: skip
        if args.profile:
            parts = [args.profile.stem, model, task, *[way] * (len(args.ways) > 1)]
            profile(steps[i], args.profile.with_stem("_".join(parts)))
    return table


class Input(Batch):
    def to(self, device: torch.device) -> "Input":
        return Input(*(t.to(device) for t in self))


def random_batch(spec: TaskSpec, B: int) -> Input:
    rows = 2 * B if spec.paired else B
    x: Tensor = torch.rand(rows, spec.max_len, spec.channels)
    if spec.vocab_size is not None:
        x = torch.randint(1, spec.vocab_size, (rows, spec.max_len))
    return Input(x, torch.ones(rows, spec.max_len, dtype=torch.bool), torch.arange(B) % spec.n_outputs)


def training_step(net: nn.Module, batch: Batch, cfg: DictConfig, way: str) -> Callable[[], None]:
    """Forward, backward, gradient clipping and optimiser, as in a run of this configuration."""
    if "compile" in way:
        for block in net.encoder.blocks:  # type: ignore[union-attr]
            block.compile()
    optimizer = adamw(net, **cfg.optimizer)
    autocast = partial(torch.autocast, batch.x.device.type, torch.bfloat16, enabled="bf16" in way)

    def compute_loss(batch: Batch) -> StepOutput:
        scores = net(batch.x, batch.mask).float()
        return StepOutput(nn.functional.cross_entropy(scores, batch.y), scores, batch.y)

    graphs = GraphReplay(compute_loss, net, batch.x.shape[1]) if "graph" in way else None

    def step() -> None:
        with autocast():
            output = graphs.gradients(batch) if graphs else compute_loss(batch)
        if not graphs:
            output.loss.backward()
        if cfg.training.clip:
            nn.utils.clip_grad_norm_(net.parameters(), cfg.training.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peer_row(cfg: DictConfig, task: str, path: str, args: argparse.Namespace) -> Row:
    """The S4 repository's layers at the same sizes, with its parameter groups, in the first variant."""
    spec, m, mixer = instantiate(cfg.task).spec, cfg.model, cfg.model.mixer
    B = batch_size(cfg, args)
    sizes = {
        "rows": 2 * B if spec.paired else B, "n_layers": m.n_layers, "prenorm": m.prenorm, "norm": m.norm,
        "dropout": m.dropout, "tie_dropout": m.tie_dropout, "n_ssm": mixer.n_ssm, "dt_min": mixer.dt_min,
        "dt_max": mixer.dt_max, "vocab_size": spec.vocab_size, "n_classes": spec.n_outputs,
        "bf16": "bf16" in args.ways[0], "lr": cfg.optimizer.lr, "weight_decay": cfg.optimizer.weight_decay,
    }  # fmt: skip
    print(f"peer, {path}, on {task}", flush=True)
    row = s4_repo.row("step", args, path, B=B, H=m.d_model, N=mixer.d_state, L=spec.max_len, sizes=sizes)
    known = {"task": task, "model": f"s4, {row['backend']}", "B": B, "L": spec.max_len}
    if "forward+backward ms" not in row:
        return known | {"note": row["note"]}
    ms = row["forward+backward ms"]
    return known | {"parameters": row["parameters"], "ms": ms, "steps/s": 1e3 / ms, "examples/s": 1e3 * B / ms,
                    "peak MiB": row["peak MiB"]}  # fmt: skip


def byte_rate(device: torch.device) -> float:
    """Bytes per second of a large copy, reads and writes counted."""

    def copy(n: int) -> tuple[Callable[[], object], int]:
        source = torch.ones(n, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source), 2 * source.nbytes

    return rate(copy, range(23, 29), device)


def flop_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of a large matrix product."""

    def product(n: int) -> tuple[Callable[[], object], int]:
        # random numbers, because a GPU is faster on ones
        a = torch.randn(n, n, device=device).to(dtype)
        return lambda: a @ a, 2 * n**3

    return rate(product, range(8, 14), device)


def rate(make: Callable[[int], tuple[Callable[[], object], int]], exponents: range, device: torch.device) -> float:
    """Amount per second at the first size 2^exponent that takes CALIBRATION seconds, or at the largest.

    This stops early on a slow device, or one that emulates a number format.

    make  size -> (work, its amount)
    """
    for exponent in exponents:
        work, amount = make(2**exponent)
        work()
        duration = min(seconds(work, device) for _ in range(5))
        if duration > CALIBRATION:
            break
    return amount / duration


def profile(step: Callable[[], None], path: Path) -> None:
    """Print the slowest operators; write every event to `path`, for a trace viewer."""
    on_gpu = torch.cuda.is_available()
    with torch.profiler.profile() as profiler:  # of all devices
        for _ in range(3):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=50))
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))
    print(f"trace: {path} (open it in chrome://tracing or Perfetto)")


def plot(rows: list[Row], path: Path) -> None:
    """Milliseconds per step of every row."""
    rows = [row for row in rows if row.get("ms")]
    figure = Figure(figsize=(8, 0.4 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    several = len({row.get("as") for row in rows}) > 2
    labels = [
        f"{row['task']}, B {row['B']}: {row['model']}" + (f", {row['as']}" if several and "as" in row else "")
        for row in rows
    ]
    bars = axes.barh(labels, [row["ms"] for row in rows], color=[f"C{'peer' in row['model']:d}" for row in rows])
    axes.bar_label(bars, [f"{row['ms']:.3g}" for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="ms per training step")
    write_figure(figure, path, dpi=120)
