"""Training step of whole models against the Transformer at several lengths: S4 paper's table 3, LRA's table 2.

Setting "s4" is the S4 paper's (appendix D.1): 4 layers, width 256, 4 heads of 32, about 600,000 parameters. Setting
"lra" is the LRA repository's Text model: heads of 64, and as many parameters as a Transformer with feed-forward width
1024. Each model's feed-forward width is chosen to meet the budget, but at least 8. A model without a feed-forward
network gets the width that meets the budget at length 1024. Excess parameters (matrices tied to the length, Luna's
projections) show in the table. Byte tokens, no dropout, mean pooling, forward and backward pass and AdamW.

"transformer" stores the (length, length) attention weights, as when these tables were published; "transformer, fused"
uses today's fused kernels. Models take turns, and ratios are medians over rounds.
"""

import argparse
import math
import statistics
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from matplotlib import figure
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import options
from benchmarks.options import Row
from lra.config import overrides
from lra.config.compose import composed
from lra.io.atomic import write_figure
from lra.paths import RESULTS
from lra.profiling.parameters import count_built, count_parameters, fitting_width
from lra.profiling.timing import peak_bytes
from lra.records.benchmark import Bench, Figure
from lra.records.environment import now
from lra.records.published import ModelInfo, load_published
from lra.task import TaskSpec

REFERENCE, FUSED = "transformer", "transformer, fused"
MODELS = [
    "local_attention", "sparse_transformer", "longformer", "linformer", "reformer", "sinkhorn", "synthesizer",
    "bigbird", "linear_transformer", "performer", "fnet", "nystromformer", "luna", "s4",
]  # fmt: skip
# setting: total width of the queries, and either the encoder's parameters or the Transformer's feed-forward width
SETTINGS = {"s4": (128, 600_000, None), "lra": (256, None, 1024)}
WIDTH = 256
TABLES = {"s4": "S4 Table 3", "lra": "LRA Table 2"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--setting", choices=SETTINGS, nargs="+", default=["s4"], help="table of the paper; default: s4"
    )
    choices, help = ["all", *all_models()], "of configs/model, or all; default: those of the papers' tables"
    parser.add_argument("--models", nargs="+", choices=choices, default=MODELS, metavar="NAME", help=help)
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[1024, 2048, 3072, 4096, 16384], metavar="L", help="of the input"
    )
    parser.add_argument("--B", type=int, default=1, help="rows of the batch")
    parser.add_argument("--memory-gb", type=float, help="skip models that would need more")
    parser.add_argument("--bf16", action="store_true", help="under autocast to bfloat16")
    options.arguments(parser, repeats=3)
    parser.add_argument("--tables", type=Path, metavar="FOLDER", help="write the cells of the papers' tables there")


def all_models() -> list[str]:
    return [name for name in overrides.options("model") if name not in (REFERENCE, *overrides.limited())]


@dataclass
class Candidate:
    """A model at one length, ready to be timed."""

    model: str
    n_parameters: int
    step: Callable[[], None]
    peak_bytes: int


def run(args: argparse.Namespace) -> list[Row]:
    started = now()
    limit = 1e9 * (args.memory_gb or default_memory_gb(args.device))
    models = [REFERENCE, FUSED, *(all_models() if "all" in args.models else args.models)]
    rows = []
    for setting in args.setting:
        peaks: dict[str, dict[int, float]] = defaultdict(dict)
        for length in sorted(args.lengths):
            found = [prepared(name, setting, length, peaks[name], limit, args) for name in models]
            candidates = [c for c in found if c]
            rounds = options.in_turns([c.step for c in candidates], args.device, args.repeats)
            reference = next((i for i, c in enumerate(candidates) if c.model == REFERENCE), None)
            for i, c in enumerate(candidates):
                row = {
                    "setting": setting, "model": c.model, "L": length, "B": args.B, "parameters": c.n_parameters,
                    "ms": 1e3 * statistics.median(times[i] for times in rounds), "MB": c.peak_bytes / 1e6,
                    "speed x": None, "memory x": None,
                }  # fmt: skip
                if reference is not None:
                    row["speed x"] = options.median_ratio(rounds, reference, i)
                    row["memory x"] = c.peak_bytes / candidates[reference].peak_bytes
                print(f"{setting} {length} {c.model}: {row['ms']:.0f} ms, {row['MB']:.0f} MB", flush=True)
                rows.append(row)
    shortest = {(r["setting"], r["model"]): r["ms"] for r in reversed(rows)}
    for r in rows:
        r["ms / shortest"] = r["ms"] / shortest[r["setting"], r["model"]]
    if args.tables:
        write_tables(rows, started, args)
    return rows


def default_memory_gb(device: str) -> float:
    """An accelerator's memory, or 12 GB on a CPU."""
    return torch.cuda.get_device_properties(device).total_memory / 1e9 if torch.device(device).type == "cuda" else 12.0


def prepared(
    name: str, setting: str, length: int, peaks: dict[int, float], limit: float, args: argparse.Namespace
) -> Candidate | None:
    """Build and warm up a model and measure its memory; None, with a message, if it does not fit.

    peaks  bytes of this model at shorter lengths; this length is added
    """
    if (needed := predicted(peaks, length)) > limit:
        print(f"{setting} {length} {name}: skipped, would need {needed / 1e9:.0f} GB", flush=True)
        return None
    torch.manual_seed(0)
    net = build(name.split(",")[0], setting, length).to(args.device)
    backend = partial(sdpa_kernel, SDPBackend.MATH) if name == REFERENCE else nullcontext
    step = training_step(net, length, backend, args)
    try:
        step()
        peak = peak_bytes(step, torch.device(args.device))
    except torch.OutOfMemoryError:
        print(f"{setting} {length} {name}: skipped, out of memory", flush=True)
        torch.cuda.empty_cache()
        return None
    # parameters and the optimiser's two moments exist before the step
    peaks[length] = peak = peak + 3 * sum(p.nbytes for p in net.parameters())
    return Candidate(name, encoder_parameters(net), step, peak)


def predicted(peaks: dict[int, float], length: int) -> float:
    """Extrapolate bytes from the two longest known lengths, by a power law."""
    known = sorted(peaks)[-2:]
    if len(known) < 2:
        return 0.0
    exponent = math.log(peaks[known[1]] / peaks[known[0]]) / math.log(known[1] / known[0])
    return peaks[known[1]] * (length / known[1]) ** exponent


def build(name: str, setting: str, length: int) -> nn.Module:
    """The classifier of a model's YAML at the sizes of the setting."""
    d_qkv, budget, d_ff = SETTINGS[setting]
    if budget is None:
        budget = encoder_parameters(make(REFERENCE, d_qkv, length, d_ff))
    few, more = (make(name, d_qkv, length, n) for n in (8, 16))
    slope = (encoder_parameters(more) - encoder_parameters(few)) // 8
    if slope == 0:
        size = partial(size_at, name, d_qkv)
        return few if 0.9 < size(WIDTH) / budget < 1.1 else make(name, d_qkv, length, None, fitting_width(size, budget))
    spare = (budget - encoder_parameters(few)) // slope
    return make(name, d_qkv, length, max(8, (8 + spare) // 8 * 8))


@cache
def size_at(name: str, d_qkv: int, width: int) -> int:
    """Parameters of the encoder at length 1024; ValueError if the model does not accept the width."""

    def encoder() -> nn.Module:
        try:
            return make(name, d_qkv, 1024, None, width).encoder  # type: ignore[return-value]
        except InstantiationException as error:
            raise error.__cause__ or error from None

    return count_built(encoder)


def make(name: str, d_qkv: int, length: int, d_ff: int | None, width: int = WIDTH) -> nn.Module:
    overrides = [
        f"model={name}", "task=text", f"model.d_model={width}", "model.n_layers=4", "model.dropout=0",
        "model.input_dropout=0", "model.pool=mean", "++family.n_heads=4", f"++family.d_qkv={d_qkv}",
    ]  # fmt: skip
    cfg = composed(overrides)["cfg"]
    if cfg.model.d_ff:
        cfg.model.d_ff = d_ff
    return instantiate(cfg.model, spec=TaskSpec("text", length, 2, 257))


def encoder_parameters(net: nn.Module) -> int:
    return count_parameters(net.encoder)  # type: ignore[arg-type]


def training_step(net: nn.Module, length: int, backend: Callable, args: argparse.Namespace) -> Callable[[], None]:
    """Forward, backward and optimiser on one batch of random bytes, without padding."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 257, (args.B, length), generator=generator).to(args.device)
    y = torch.arange(args.B, device=args.device) % 2
    mask = torch.ones_like(x, dtype=torch.bool)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4)

    def step() -> None:
        with backend(), torch.autocast(x.device.type, torch.bfloat16, enabled=args.bf16):
            loss = nn.functional.cross_entropy(net(x, mask), y)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def figures(rows: list[Row], setting: str) -> list[Figure]:
    """The rows as cells of the paper's table, under the names that models have there."""
    published = load_published(RESULTS / "published")
    printed = {q.row for q in published.quantities if q.table == TABLES[setting]}
    cells = []
    for r in rows:
        fused = r["model"] == FUSED
        info = ModelInfo(FUSED, "Transformer, fused", "attention") if fused else published.models.get(r["model"])
        names = [info.row or "", info.title, (info.row or "").split(" (")[0]] if info else []
        name = next((n for n in names if n in printed), names[1] if names else r["model"])
        if setting == "lra":
            at = f"{r['L'] // 1024}K"
            values = {f"steps/s, {at}": (1e3 / r["ms"], "steps/s"), f"GB, {at}": (r["MB"] / 1e3, "GB")}
        else:
            at = f"length {r['L']}"
            values = {f"speed, {at}": (r["speed x"], "x"), f"memory, {at}": (r["memory x"], "x")}
        for column, (value, unit) in values.items():
            if value is not None:
                cells.append(Figure(row=name, column=column, value=value, unit=unit))
    return cells


def write_tables(rows: list[Row], started: str, args: argparse.Namespace) -> None:
    args.tables.mkdir(parents=True, exist_ok=True)
    for setting in args.setting:
        cells = figures([r for r in rows if r["setting"] == setting], setting)
        bench = Bench(table=TABLES[setting], rows=cells, **options.conditions(args, started))
        bench.write(args.tables / f"{TABLES[setting].lower().replace(' table ', '_table')}.json")


def plot(rows: list[Row], path: Path) -> None:
    """Milliseconds and megabytes of a step against length, logarithmic; a row of two plots for each setting."""
    settings, names = (list(dict.fromkeys(r[key] for r in rows)) for key in ("setting", "model"))
    lengths = sorted({r["L"] for r in rows})
    fig = figure.Figure(figsize=(9, 4.2 * len(settings)), layout="constrained")
    for setting, axes in zip(settings, fig.subplots(len(settings), 2, squeeze=False), strict=True):
        for axis, key, label in zip(axes, ("ms", "MB"), ("training step [ms]", "peak memory [MB]"), strict=True):
            for n, name in enumerate(names):
                points = [(r["L"], r[key]) for r in rows if (r["setting"], r["model"]) == (setting, name)]
                style = {"color": f"C{n % 10}", "lw": 1}
                if name in (REFERENCE, FUSED):
                    style = {"color": "black", "lw": 2, "ls": "-" if name == REFERENCE else ":"}
                marker = "o^svDPX"[n // 10 % 7]
                axis.plot(*zip(*points, strict=True), marker=marker, ms=3, label=name, **style)
            axis.set(xscale="log", yscale="log", xlabel="length", ylabel=label, title=f"setting {setting}")
            axis.set_xticks(lengths, [f"{length // 1024}K" for length in lengths], minor=False)
            axis.minorticks_off()
        fontsize = 8 if len(names) < 20 else 5
        axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=fontsize)
    write_figure(fig, path)
