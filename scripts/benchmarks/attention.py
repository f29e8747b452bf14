"""Training step of whole models against the Transformer at several lengths: S4 paper's table 3, LRA's table 2.

Setting "s4" is the S4 paper's (appendix D.1): 4 layers, width 256, 4 heads of 32, about 600,000 parameters. Setting
"lra" is the LRA repository's Text model: heads of 64, and the parameters of a Transformer with a feed-forward width of
1024. The feed-forward width of each model is what its budget leaves, 8 at least. A model without such a network has the
width that its budget at length 1024 allows. What a model has beyond its budget (matrices tied to the length, Luna's
projections) stands in the table. Byte tokens, no dropout, mean pooling, forward and backward pass and AdamW.

"transformer" stores the (length, length) attention weights, as when these tables were published; "transformer, fused"
is the same by today's fused kernels. Models take turns, and ratios are medians over rounds, so that what else the
machine does falls on all alike.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

import hydra
import matplotlib
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import options
from lra.io.atomic import write_figure
from lra.paths import ROOT
from lra.profiling.parameters import count_built, fitting_width
from lra.profiling.timing import peak_bytes, seconds
from lra.records.benchmark import Bench, Figure
from lra.records.environment import git, hardware, versions
from lra.records.published import ModelInfo, load_published
from lra.task import TaskSpec

REFERENCE, FUSED = "transformer", "transformer, fused"
MODELS = [
    "local_attention", "sparse_transformer", "longformer", "linformer", "reformer", "sinkhorn", "synthesizer",
    "bigbird", "linear_transformer", "performer", "fnet", "nystromformer", "luna", "s4",
]  # fmt: skip
# setting: width of queries in total, and the parameters of the encoder or the Transformer's feed-forward width
SETTINGS = {"s4": (128, 600_000, None), "lra": (256, None, 1024)}
WIDTH = 256
TABLES = {"s4": "S4 Table 3", "lra": "LRA Table 2"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--setting", choices=SETTINGS, nargs="+", default=["s4"])
    known = sorted(p.stem for p in (ROOT / "configs/model").glob("[!_]*.yaml") if p.stem != REFERENCE)
    words = {"nargs": "+", "choices": ["all", *known], "metavar": "NAME", "default": MODELS}
    parser.add_argument("--models", **words, help="of configs/model, or all; by default those of the papers' tables")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 3072, 4096, 16384], metavar="L")
    parser.add_argument("--B", type=int, default=1)
    parser.add_argument("--memory-gb", type=float, default=None, help="leave out what would need more")
    parser.add_argument("--bf16", action="store_true", help="under autocast to bfloat16")
    options.arguments(parser, repeats=3)
    parser.add_argument("--tables", type=Path, metavar="FOLDER", help="write the cells of the papers' tables there")


@dataclass
class Contestant:
    """One model at one length: its step, and what it took."""

    model: str
    parameters: int
    step: Callable[[], None]
    peak: int
    times: list[float] = field(default_factory=list)


def run(args: argparse.Namespace) -> list[dict]:
    torch.set_num_threads(args.threads or torch.get_num_threads())
    started = datetime.now(UTC).isoformat(timespec="seconds")
    limit = 1e9 * (args.memory_gb or default_memory_gb(args.device))
    if args.models == ["all"]:
        args.models = sorted(p.stem for p in (ROOT / "configs/model").glob("[!_]*.yaml") if p.stem != REFERENCE)
    rows = []
    for setting in args.setting:
        held: dict[str, dict[int, float]] = {}
        for length in sorted(args.lengths):
            contestants = [
                c for name in (REFERENCE, FUSED, *args.models) if (c := enter(name, setting, length, held, limit, args))
            ]
            for _ in range(args.repeats):
                for c in contestants:
                    c.times.append(seconds(c.step, torch.device(args.device)))
            rows += [row(c, contestants, setting, length, args.B) for c in contestants]
            for line in rows[len(rows) - len(contestants) :]:
                print(f"{setting} {length} {line['model']}: {line['ms']:.0f} ms, {line['MB']:.0f} MB", flush=True)
    shortest = {(r["setting"], r["model"]): r for r in reversed(rows)}
    for r in rows:
        r["ms / shortest"] = r["ms"] / shortest[r["setting"], r["model"]]["ms"]
    if args.tables:
        write_tables(rows, started, args)
    return rows


def default_memory_gb(device: str) -> float:
    """All of an accelerator's memory; 12 GB of a computer's."""
    return torch.cuda.get_device_properties(device).total_memory / 1e9 if torch.device(device).type == "cuda" else 12.0


def enter(
    name: str, setting: str, length: int, held: dict[str, dict[int, float]], limit: float, args: argparse.Namespace
) -> Contestant | None:
    """The model warmed up and its memory measured; None, and a line, if it does not fit."""
    if (guess := predicted(held.get(name, {}), length)) > limit:
        print(f"{setting} {length} {name}: left out, it would need {guess / 1e9:.0f} GB", flush=True)
        return None
    torch.manual_seed(0)
    net = build(name.split(",")[0], setting, length).to(args.device)
    backend = partial(sdpa_kernel, SDPBackend.MATH) if name == REFERENCE else nullcontext
    step = training_step(net, length, backend, args)
    try:
        step()
        peak = peak_bytes(step, torch.device(args.device))
    except torch.OutOfMemoryError:
        print(f"{setting} {length} {name}: left out, out of memory", flush=True)
        torch.cuda.empty_cache()
        return None
    # parameters and the optimiser's two moments of each are there before the step begins
    peak += 3 * sum(p.numel() * p.element_size() for p in net.parameters())
    held.setdefault(name, {})[length] = peak
    return Contestant(name, parameters(net.encoder), step, peak)


def predicted(peaks: dict[int, float], length: int) -> float:
    """Bytes at a length from those at the two lengths before, by the power of the length that joins them."""
    known = sorted(peaks)[-2:]
    if len(known) < 2:
        return 0.0
    exponent = torch.tensor(peaks[known[1]] / peaks[known[0]]).log() / torch.tensor(known[1] / known[0]).log()
    return peaks[known[1]] * (length / known[1]) ** float(exponent)


def build(name: str, setting: str, length: int) -> nn.Module:
    """The classifier of a model's YAML at the setting's sizes."""
    d_qkv, budget, d_ff = SETTINGS[setting]
    if budget is None:
        budget = parameters(make(REFERENCE, d_qkv, length, d_ff).encoder)
    few, more = (make(name, d_qkv, length, n) for n in (8, 16))
    slope = (parameters(more.encoder) - parameters(few.encoder)) // 8
    if slope == 0:
        size = partial(sized, name, d_qkv)
        return few if 0.9 < size(WIDTH) / budget < 1.1 else make(name, d_qkv, length, None, fitting_width(size, budget))
    spare = (budget - parameters(few.encoder)) // slope
    return make(name, d_qkv, length, max(8, (8 + spare) // 8 * 8))


@cache
def sized(name: str, d_qkv: int, width: int) -> int:
    """Parameters of the encoder at length 1024; ValueError where the model does not take the width."""

    def build() -> nn.Module:
        try:
            return make(name, d_qkv, 1024, None, width).encoder
        except InstantiationException as error:
            raise error.__cause__ or error from None

    return count_built(build)


def make(name: str, d_qkv: int, length: int, d_ff: int | None, width: int = WIDTH) -> nn.Module:
    overrides = [
        f"model={name}", "task=text", f"model.d_model={width}", "model.n_layers=4", "model.dropout=0",
        "model.input_dropout=0", "model.pool=mean", "++family.n_heads=4", f"++family.d_qkv={d_qkv}",
    ]  # fmt: skip
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = hydra.compose("train", overrides=overrides)
    if cfg.model.d_ff:
        cfg.model.d_ff = d_ff
    return instantiate(cfg.model, spec=TaskSpec("text", length, 2, 257))


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


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


def row(c: Contestant, contestants: list[Contestant], setting: str, length: int, batch: int) -> dict:
    """One line: times and memory, and both against the Transformer of the same length if it ran."""
    reference = next((r for r in contestants if r.model == REFERENCE), None)
    speed = memory = None
    if reference:
        speed = statistics.median(theirs / own for theirs, own in zip(reference.times, c.times, strict=True))
        memory = c.peak / reference.peak
    return {
        "setting": setting, "model": c.model, "L": length, "B": batch, "parameters": c.parameters,
        "ms": 1e3 * statistics.median(c.times), "MB": c.peak / 1e6, "speed x": speed, "memory x": memory,
    }  # fmt: skip


def figures(rows: list[dict], setting: str) -> list[Figure]:
    """The rows as cells of the paper's table, under the names that models have there."""
    published = load_published(ROOT / "results/published")
    printed = {q.row for q in published.quantities if q.table == TABLES[setting]}
    cells = []
    for r in rows:
        fused = r["model"] == FUSED
        known = ModelInfo(FUSED, "Transformer, fused", "attention") if fused else published.models.get(r["model"])
        names = [] if known is None else [known.row, known.title, (known.row or "").split(" (")[0]]
        name = next((n for n in names if n in printed), names[1] if names else r["model"])
        if setting == "s4" and r["speed x"] is not None:
            cells.append(Figure(row=name, column=f"speed, length {r['L']}", value=r["speed x"], unit="x"))
            cells.append(Figure(row=name, column=f"memory, length {r['L']}", value=r["memory x"], unit="x"))
        if setting == "lra":
            at = f"{r['L'] // 1024}K"
            cells.append(Figure(row=name, column=f"steps/s, {at}", value=1e3 / r["ms"], unit="steps/s"))
            cells.append(Figure(row=name, column=f"GB, {at}", value=r["MB"] / 1e3, unit="GB"))
    return cells


def write_tables(rows: list[dict], started: str, args: argparse.Namespace) -> None:
    args.tables.mkdir(parents=True, exist_ok=True)
    for setting in args.setting:
        bench = Bench(
            table=TABLES[setting],
            command=" ".join(["python", "scripts/bench.py", *sys.argv[1:]]),
            started=started,
            git=git(),
            hardware=hardware(args.device),
            versions=versions(),
            rows=figures([r for r in rows if r["setting"] == setting], setting),
        )
        bench.write(args.tables / f"{TABLES[setting].lower().replace(' table ', '_table')}.json")


def plot(rows: list[dict], path: Path) -> None:
    """Milliseconds and megabytes of a step over the length, all axes logarithmic; a line of two for each setting."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    settings = list(dict.fromkeys(r["setting"] for r in rows))
    names = list(dict.fromkeys(r["model"] for r in rows))
    lengths = sorted({r["L"] for r in rows})
    fig, lines = plt.subplots(len(settings), 2, figsize=(9, 4.2 * len(settings)), layout="constrained", squeeze=False)
    for setting, axes in zip(settings, lines, strict=True):
        for axis, key, label in zip(axes, ("ms", "MB"), ("training step [ms]", "peak memory [MB]"), strict=True):
            for n, name in enumerate(names):
                mine = [r for r in rows if (r["setting"], r["model"]) == (setting, name)]
                style = {"color": f"C{n % 10}", "lw": 1}
                if name in (REFERENCE, FUSED):
                    style = {"color": "black", "lw": 2, "ls": "-" if name == REFERENCE else ":"}
                marker = "o^svDPX"[n // 10 % 7]
                axis.plot([r["L"] for r in mine], [r[key] for r in mine], marker=marker, ms=3, label=name, **style)
            axis.set(xscale="log", yscale="log", xlabel="length", ylabel=label, title=f"setting {setting}")
            axis.set_xticks(lengths, [f"{length // 1024}K" for length in lengths], minor=False)
            axis.minorticks_off()
        axes[1].legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8 if len(names) < 20 else 5
        )
    write_figure(fig, path)
    plt.close(fig)
