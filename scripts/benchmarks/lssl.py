"""A layer of S4 against one of LSSL, as in table 2 of the S4 paper: time and memory of a training step.

Appendix D.1 of the paper: a layer with H features, LSSL with state H, S4 with state H / 4, so that both have as many
parameters; one forward and backward pass on an A100. It does not state batch size or length.
"""

import argparse

import torch

from benchmarks import options
from benchmarks.options import Row
from lra.paths import RESULTS
from lra.profiling.timing import timed
from lra.records.published import load_published
from models.lssl import LSSL
from models.s4 import S4

# rows and columns of `figures` are those of this table in lra.tables.efficiency
TABLE = "S4 Table 2"
COLUMNS = {"ms": "training step, dim {}", "MB": "memory, dim {}"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 256, 512], metavar="H", help="features")
    parser.add_argument("--L", type=int, default=1024, help="length")
    parser.add_argument("--B", type=int, default=1, help="rows of the batch")
    parser.add_argument("--backend", default="auto", help="of S4's kernels")
    options.arguments(parser)


def run(args: argparse.Namespace) -> list[Row]:
    quantities = load_published(RESULTS / "published").quantities
    published = {q.column: q.value for q in quantities if q.table == TABLE and q.row == "Ratio"}
    rows = []
    for H in args.dims:
        lssl = measure(LSSL(H, args.L, d_state=H, bidirectional=False), args)
        # n_ssm=None: each feature has its own (A, B, P), as the matched number of parameters implies
        s4_layer = S4(H, args.L, d_state=max(2, H // 4), n_ssm=None, bidirectional=False, backend=args.backend)
        s4 = measure(s4_layer, args)
        row: Row = {"H": H, "B": args.B, "L": args.L}
        for unit, column in COLUMNS.items():
            row |= {f"LSSL {unit}": lssl[unit], f"S4 {unit}": s4[unit], f"{unit} ratio": lssl[unit] / s4[unit]}
            row[f"{unit} ratio, paper"] = published.get(column.format(H))
        rows.append(row)
    return rows


def measure(layer: torch.nn.Module, args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of a step, and its peak in megabytes (10^6), including parameters and input."""
    torch.manual_seed(0)
    layer = layer.to(args.device)
    width = len(layer.D)  # type: ignore[arg-type]
    x = torch.randn(args.B, args.L, width, device=args.device, requires_grad=True)
    mask = torch.ones(args.B, args.L, dtype=torch.bool, device=args.device)

    def step() -> None:
        layer(x, mask).sum().backward()
        layer.zero_grad(set_to_none=True)
        x.grad = None

    measured = timed(step, args.device, repeats=args.repeats)
    existing = sum(t.nbytes for t in (*layer.parameters(), x))
    found = {"ms": 1e3 * measured.seconds, "MB": (existing + measured.peak_bytes) / 1e6}
    print(f"{type(layer).__name__} H {width}: {found['ms']:.1f} ms, {found['MB']:.1f} MB", flush=True)
    return found


def figures(rows: list[Row]) -> list[Row]:
    """The rows as cells of the paper's table."""
    cells = []
    for row in rows:
        for unit, column in COLUMNS.items():
            for name, key, cell_unit in (("LSSL", f"LSSL {unit}", unit), ("S4", f"S4 {unit}", unit),
                                         ("Ratio", f"{unit} ratio", "x")):  # fmt: skip
                column_name = column.format(row["H"])
                cells.append({"row": name, "column": column_name, "value": row[key], "unit": cell_unit})
    return cells
