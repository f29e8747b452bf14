"""One layer of S4 against one of LSSL, as in table 2 of the S4 paper: a training step's time and memory.

Appendix D.1 of the paper: a layer with H features, LSSL with a state of H, S4 with one of H / 4, which gives both as
many parameters; one forward and one backward pass on an A100. It names neither batch nor length.
"""

import argparse

import torch

from benchmarks import options
from lra.paths import RESULTS
from lra.profiling.timing import timed
from lra.records.published import load_published
from models.lssl import LSSL
from models.s4 import S4

# of lra.tables.efficiency: its rows and columns are those of `figures`
TABLE = "S4 Table 2"
COLUMNS = {"ms": "training step, dim {}", "MB": "memory, dim {}"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 256, 512], metavar="H")
    parser.add_argument("--L", type=int, default=1024)
    parser.add_argument("--B", type=int, default=1)
    parser.add_argument("--backend", default="auto", help="of S4's kernel")
    options.arguments(parser)


def run(args: argparse.Namespace) -> list[dict]:
    torch.set_num_threads(args.threads or torch.get_num_threads())
    folder = RESULTS / "published"
    quantities = load_published(folder).quantities
    published = {q.column: q.value for q in quantities if q.table == TABLE and q.row == "Ratio"}
    rows = []
    for H in args.dims:
        lssl = measure(LSSL(H, args.L, d_state=H, bidirectional=False), args)
        # every feature with its own (A, B, P): that many parameters are matched
        s4 = S4(H, args.L, d_state=max(2, H // 4), n_ssm=None, bidirectional=False, backend=args.backend)
        s4 = measure(s4, args)
        row = {"H": H, "B": args.B, "L": args.L}
        for unit, column in COLUMNS.items():
            row |= {f"LSSL {unit}": lssl[unit], f"S4 {unit}": s4[unit], f"{unit} ratio": lssl[unit] / s4[unit]}
            row[f"{unit} ratio, paper"] = published.get(column.format(H))
        rows.append(row)
    return rows


def measure(layer: torch.nn.Module, args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of a step, and megabytes (10^6) at its peak, parameters and input included."""
    torch.manual_seed(0)
    layer = layer.to(args.device)
    width = len(layer.D)
    x = torch.randn(args.B, args.L, width, device=args.device, requires_grad=True)
    mask = torch.ones(args.B, args.L, dtype=torch.bool, device=args.device)

    def step() -> None:
        layer(x, mask).sum().backward()
        layer.zero_grad(set_to_none=True)
        x.grad = None

    taken = timed(step, args.device, repeats=args.repeats)
    held = sum(t.numel() * t.element_size() for t in (*layer.parameters(), x))
    found = {"ms": 1e3 * taken.seconds, "MB": (held + taken.peak_bytes) / 1e6}
    print(f"{type(layer).__name__} H {width}: {found['ms']:.1f} ms, {found['MB']:.1f} MB", flush=True)
    return found


def figures(rows: list[dict]) -> list[dict]:
    """The same as cells of the paper's table."""
    cells = []
    for row in rows:
        for unit, column in COLUMNS.items():
            place = {"column": column.format(row["H"])}
            cells.append({"row": "LSSL", **place, "value": row[f"LSSL {unit}"], "unit": unit})
            cells.append({"row": "S4", **place, "value": row[f"S4 {unit}"], "unit": unit})
            cells.append({"row": "Ratio", **place, "value": row[f"{unit} ratio"], "unit": "x"})
    return cells
