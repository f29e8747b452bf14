"""A whole training step of each (model, task) recipe: speed, memory and share of the hardware's floor.

Model, loss, gradient clipping and optimiser at the recipe's sizes, on a batch of random input without padding. The
floor is the time of a step that only did what cannot be avoided, at the rates measured on this device just before:

    bytes   12 passes over the (B, L, D) activations of every layer: the forward pass reads and writes them at the
            mixing along the length and at the mixing across features (4), the backward pass reads what came in and
            reads and writes gradients at both (8); and 40 for every parameter in float32 (three reads in the two
            passes and the optimiser, its gradient and two moments read and written)
    FLOPs   three times those of a forward pass, as `lra.profiling.flops` counts them

whichever takes longer; bytes move at the rate of a copy, FLOPs at that of a matrix product in the run's precision.

Several ways (`--as float32 bf16 compile`) take turns, and "times as fast" is the median over rounds of the first one's
time by that of the row.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from benchmarks import options, s4_repo
from lra.config import tuned
from lra.io.atomic import write_figure
from lra.paths import CONFIGS
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
# seconds of one call at which a ceiling is taken as measured
CALIBRATION = 0.05
TASKS = ["listops", "text", "retrieval", "image", "pathfinder", "pathx"]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", nargs="+", default=TASKS)
    parser.add_argument("--model", nargs="+", default=["s4"])
    parser.add_argument("--scale", default="paper")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="as for scripts/train.py, for every row"
    )
    parser.add_argument("--B", type=int, default=None, help="examples of a batch at most; the recipe's if not given")
    meaning = ", ".join(f"{way}: {what}" for way, what in WAYS.items() if what)
    parser.add_argument("--as", dest="ways", nargs="+", choices=WAYS, default=["float32"], metavar="WAY", help=meaning)
    options.arguments(parser, peer=True)
    parser.add_argument("--profile", type=Path, metavar="FILE", help="print where the time goes, and write a trace")


def run(args: argparse.Namespace) -> list[dict]:
    torch.set_num_threads(args.threads or torch.get_num_threads())
    tuned.offer()
    device = torch.device(args.device)
    if device.type != "cuda" and (graphs := [way for way in args.ways if "graph" in way]):
        raise ValueError(f"--as {' '.join(graphs)}: only CUDA has graphs: leave it out, or give --device cuda")
    rates = {"bytes": byte_rate(device)} | {precision(way): flop_rate(device, precision(way)) for way in args.ways}
    products = [f"{rate / 1e9:.0f} GFLOP/s in {kind}" for kind, rate in rates.items() if kind != "bytes"]
    print(f"ceilings: {rates['bytes'] / 1e9:.1f} GB/s, {', '.join(products)}", flush=True)
    rows = []
    for task in args.task:
        for model in args.model:
            print(f"{model} on {task}", flush=True)
            cfg = composed(task, model, args)
            rows += measure(cfg, task, model, args, rates)
            if args.peer and model == "s4":
                rows += [peer_row(cfg, task, path, args) for path in args.peer_path]
    return rows


def composed(task: str, model: str, args: argparse.Namespace) -> DictConfig:
    words = [f"task={task}", f"model={model}", f"scale={args.scale}", *args.set]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose("train", overrides=words)


def batch_size(cfg: DictConfig, args: argparse.Namespace) -> int:
    return min(cfg.task.batch_size, args.B or cfg.task.batch_size)


def precision(way: str) -> torch.dtype:
    return torch.bfloat16 if "bf16" in way else torch.float32


def measure(cfg: DictConfig, task: str, model: str, args: argparse.Namespace, rates: dict) -> list[dict]:
    """A row for each way of taking the step."""
    device, spec, B = torch.device(args.device), instantiate(cfg.task).spec, batch_size(cfg, args)
    nets, steps = [], []
    for way in args.ways:
        torch.manual_seed(0)
        nets.append(instantiate(cfg.model, spec=spec))
        steps.append(training_step(nets[-1].to(device), random_batch(spec, B).to(device), cfg, way))
    flops = 3 * B * forward_flops(nets[0], spec, longest=spec.max_len)
    rows_in, held = B * (1 + spec.paired), count_parameters(nets[0])
    first = [seconds(step, device) for step in steps]
    # so many that what is recorded has been; the memory of a recording is taken when it is made
    peaks = [max(peak_bytes(step, device) for _ in range(WARMUP_PASSES + 1)) for step in steps]
    times = [[seconds(step, device) for step in steps] for _ in range(args.repeats)]
    table = []
    for i, way in enumerate(args.ways):
        taken = statistics.median(round_[i] for round_ in times)
        moved = 12 * rows_in * spec.max_len * cfg.model.d_model * cfg.model.n_layers * precision(way).itemsize
        moved += 40 * held
        floor = max(moved / rates["bytes"], flops / rates[precision(way)])
        table.append({
            "task": task, "model": model, "as": way, "B": B, "L": spec.max_len, "parameters": held,
            "ms": 1e3 * taken, "times as fast": statistics.median(round_[0] / round_[i] for round_ in times),
            "steps/s": 1 / taken, "examples/s": B / taken,
            "peak MiB": peaks[i] / 2**20, "first step s": first[i],
            "GB": moved / 1e9, "GFLOP": flops / 1e9, "floor ms": 1e3 * floor, "share of floor": floor / taken,
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
    return Input(x, torch.ones(rows, spec.max_len, dtype=torch.bool), torch.arange(B) % spec.n_classes)


def training_step(net: nn.Module, batch: Batch, cfg: DictConfig, way: str) -> Callable[[], None]:
    """Forward, backward, clipping and optimiser, as in a run of this configuration."""
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


def peer_row(cfg: DictConfig, task: str, path: str, args: argparse.Namespace) -> dict:
    """Their layers at the same sizes, in their own residual blocks, under their own parameter groups; the first way."""
    spec, m, mixer = instantiate(cfg.task).spec, cfg.model, cfg.model.mixer
    B = batch_size(cfg, args)
    sizes = {
        "rows": 2 * B if spec.paired else B, "n_layers": m.n_layers, "prenorm": m.prenorm, "norm": m.norm,
        "dropout": m.dropout, "tie_dropout": m.tie_dropout, "n_ssm": mixer.n_ssm, "dt_min": mixer.dt_min,
        "dt_max": mixer.dt_max, "vocab_size": spec.vocab_size, "n_classes": spec.n_classes,
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
    """Bytes a second of a large copy, read and written."""
    return grown(partial(copy_rate, device), range(23, 29))


def flop_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product."""
    return grown(partial(product_rate, device, dtype), range(8, 14))


def grown(rate: Callable[[int], tuple[float, float]], exponents: range) -> float:
    """The rate at the first size 2^exponent that takes CALIBRATION seconds, or at the largest: a slow device, or one
    that emulates a type of number, stops early.
    """
    for exponent in exponents:
        found, taken = rate(2**exponent)
        if taken > CALIBRATION:
            break
    return found


def copy_rate(device: torch.device, n: int) -> tuple[float, float]:
    source = torch.ones(n, device=device)
    target = torch.empty_like(source)
    taken = best(lambda: target.copy_(source), device)
    return 2 * source.nbytes / taken, taken


def product_rate(device: torch.device, dtype: torch.dtype, n: int) -> tuple[float, float]:
    # of random numbers: ones let a GPU run faster than any real product does
    a = torch.randn(n, n, device=device).to(dtype)
    taken = best(lambda: a @ a, device)
    return 2 * n**3 / taken, taken


def best(work: Callable[[], object], device: torch.device) -> float:
    work()
    return min(seconds(work, device) for _ in range(5))


def profile(step: Callable[[], None], path: Path) -> None:
    """The operators that take longest as a table on the screen; every event, for a trace viewer, in `path`."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(3):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=50))
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))
    print(f"trace: {path} (opens in a browser's chrome://tracing or in Perfetto)")


def plot(rows: list[dict], path: Path) -> None:
    """Steps a second of every row, by task."""
    from matplotlib.figure import Figure

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
    axes.set(xscale="log", xlabel="ms a training step")
    write_figure(figure, path, dpi=120)
