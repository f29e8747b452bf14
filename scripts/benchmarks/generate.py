"""Generation, token after token: S4, the Transformer with and without a cache of keys, the Linear Transformer.

Models of equal width and depth with a feed-forward network in each block, and S4 as a U-Net, at the lengths of the S4
paper's tables 7 (3072 values of an image) and 8. A token's cost is measured at positions spread over the sequence,
after a prefix of random tokens was read, and added up along the straight lines between them. Without a cache, a token
costs a forward pass over all positions before it.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils._pytree import tree_map

from benchmarks import options
from benchmarks.options import Row
from lra.io.atomic import write_figure
from lra.nn.classifier import Classifier
from lra.nn.generation import Sampling, scores_of
from lra.nn.multiscale import MultiScale
from lra.profiling.parameters import count_parameters
from lra.task import TaskSpec
from models.linear_transformer import LinearAttention
from models.s4 import S4
from models.transformer import Attention

TABLE = "S4 generation"
RUN = 48  # tokens in a row, a whole period of the U-Net
S4_MIXER = partial(S4, bidirectional=False)
WAYS: dict[str, dict[str, Any]] = {
    "Transformer": {"mixer": partial(Attention, n_heads=8, causal=True), "positions": "sinusoidal"},
    "Transformer with a cache": {"mixer": partial(Attention, n_heads=8, causal=True), "positions": "sinusoidal"},
    "Linear Transformer": {"mixer": partial(LinearAttention, n_heads=8, causal=True), "positions": "sinusoidal"},
    "S4": {"mixer": S4_MIXER},
    "S4 (U-Net)": {"encoder": partial(MultiScale, mixer=S4_MIXER, pool=(3, 4, 4), d_ff=4)},
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--L", type=options.positive, nargs="+", default=[1024, 3072], help="tokens of a sequence")
    parser.add_argument("--B", type=options.positive, nargs="+", default=[1, 16], help="sequences at a time")
    parser.add_argument("--H", type=options.positive, default=256, help="width of the models")
    parser.add_argument("--layers", type=options.positive, default=8, help="blocks")
    parser.add_argument("--tokens", type=options.positive, default=256, help="different tokens")
    parser.add_argument("--points", type=options.positive, default=5, help="positions at which a token is timed")
    parser.add_argument("--way", nargs="+", choices=WAYS, default=list(WAYS), help="models; default: all")
    options.arguments(parser, repeats=3)


def run(args: argparse.Namespace) -> list[Row]:
    rows = []
    for L, B in itertools.product(args.L, args.B):
        shares = [i / max(1, args.points - 1) for i in range(args.points)]
        places = [round(share * (L - 1)) for share in shares]
        for way in args.way:
            torch.manual_seed(0)
            spec = TaskSpec("tokens", L, args.tokens, args.tokens + 1, objective="density", horizon=L, causal=True)
            model = build(way, spec, args).to(args.device).eval()
            costs = [token_seconds(model, way, B, place, args) for place in places]
            total = sum((b - a) * (s + t) / 2 for (a, s), (b, t) in itertools.pairwise(zip(places, costs, strict=True)))
            total += costs[0] if len(places) == 1 else 0
            rows.append({
                "way": way, "L": L, "B": B, "parameters": count_parameters(model),
                **{f"ms at {100 * share:.0f} %": 1e3 * cost for share, cost in zip(shares, costs, strict=True)},
                "tokens/s": B * (L - 1) / total, "sequences/s": B * (L - 1) / total / L,
            })  # fmt: skip
            print(f"{way} L {L} B {B}: {rows[-1]['tokens/s']:.0f} tokens/s", flush=True)
    slow = {(row["L"], row["B"]): row["tokens/s"] for row in rows if row["way"] == "Transformer"}
    for row in rows:
        if (row["L"], row["B"]) in slow:
            row["times the Transformer"] = row["tokens/s"] / slow[row["L"], row["B"]]
            best = max(speed for (L, _), speed in slow.items() if row["L"] == L)
            row["times its fastest batch"] = row["tokens/s"] / best
    return rows


def build(way: str, spec: TaskSpec, args: argparse.Namespace) -> Classifier:
    """The U-Net begins at a quarter of the width, since pooling widens it, with a quarter of the blocks each time."""
    if way == "S4 (U-Net)":
        return Classifier(spec, d_model=args.H // 4, n_layers=max(1, args.layers // 4), **WAYS[way])
    return Classifier(spec, d_model=args.H, n_layers=args.layers, d_ff=4 * args.H, **WAYS[way])


@torch.no_grad()
def token_seconds(model: Classifier, way: str, B: int, place: int, args: argparse.Namespace) -> float:
    """Seconds to draw a token of all B sequences at position `place`; the median over rounds.

    By steps: the mean of a run of tokens that begins there, since a model with pooling does most work at some of them.
    """
    x = torch.randint(1, args.tokens + 1, (B, place + 1), device=args.device)
    mask = torch.ones_like(x, dtype=torch.bool)
    sampling, generator = Sampling(), torch.Generator().manual_seed(0)
    if way == "Transformer":
        return median_seconds(lambda: sampling.draw(scores_of(model(x, mask))[:, -1], generator), args)
    model.setup_step()
    n = min(RUN, model.embedding.max_len)
    start = min(place, model.embedding.max_len - n)
    before = model.prefill(x[:, :start], mask[:, :start])[1] if start else model.default_state(B)

    def tokens() -> Tensor:
        state, drawn = tree_map(torch.clone, before), x[:, start]
        for _ in range(n):
            outputs, state = model.step(drawn, state)
            drawn = sampling.draw(scores_of(outputs), generator) + 1
        return drawn

    tokens()
    return median_seconds(tokens, args) / n


def median_seconds(work: Callable[[], Tensor], args: argparse.Namespace) -> float:
    found = []
    for _ in range(args.repeats):
        begin = time.perf_counter()
        work().cpu()  # waits for the device
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def plot(rows: list[Row], path: Path) -> None:
    """The cost of a token against its position, of one sequence at a time or of the smallest batch measured."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="position", ylabel="ms for a token", yscale="log")
    longest, fewest = max(row["L"] for row in rows), min(row["B"] for row in rows)
    for row in rows:
        if (row["L"], row["B"]) == (longest, fewest):
            costs = {float(key.split()[2]): value for key, value in row.items() if key.startswith("ms at")}
            axes.plot([share / 100 * longest for share in costs], list(costs.values()), marker="o", label=row["way"])
    axes.legend()
    write_figure(figure, path)


def figures(rows: list[Row]) -> list[Row]:
    """Speeds relative to the Transformer without a cache: with one sequence, and each with its fastest batch."""
    cells = []
    for way, L in dict.fromkeys((row["way"], row["L"]) for row in rows):
        found = [row for row in rows if (row["way"], row["L"]) == (way, L)]
        for row in found:
            if row["B"] == 1 and "times the Transformer" in row:
                cells.append((way, f"one sequence, length {L}", row["times the Transformer"]))
        ratios = [row["times its fastest batch"] for row in found if "times its fastest batch" in row]
        if ratios:
            cells.append((way, f"fastest batch, length {L}", max(ratios)))
    return [{"row": row, "column": column, "value": value, "unit": "x"} for row, column, value in cells]
