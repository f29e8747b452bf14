"""A causal S4 or S4D layer position by position: time of a step, against the S4 repository's step modes.

"error" is the 2-norm of the difference between steps and the layer's own forward pass, relative to the latter. "times
as fast" compares with our row of the same model and batch. Peers are measured in a process of their own, one after the
other, on the same number of threads.
"""

import argparse

from benchmarks import options, s4_repo
from benchmarks.options import MODELS, Row

# of the S4 repository
MODES = {"s4": ["dense", "linear", "diagonal"], "s4d": ["s4d"]}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS, nargs="+", default=list(MODELS), help="default: s4 s4d")
    parser.add_argument("--B", type=options.positive, nargs="+", default=[1, 16], help="rows; default: 1 16")
    parser.add_argument("--H", type=options.positive, default=256, help="features")
    parser.add_argument("--N", type=options.positive, default=64, help="size of the state")
    parser.add_argument("--L", type=options.positive, default=1024, help="positions for the error")
    options.arguments(parser, repeats=15, peer=True)


def run(args: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    for model in args.model:
        for B in args.B:
            print(f"{model} B {B}", flush=True)
            layer = MODELS[model](args.H, args.L, d_state=args.N, bidirectional=False).to(args.device).eval()
            layer.setup_step()
            sizes: Row = {"model": model, "B": B, "H": args.H, "N": args.N}
            ours = s4_repo.time_steps(
                layer.step, layer.default_state, layer, args.device, args.repeats, (B, args.H, args.L)
            )
            rows.append(sizes | {"steps of": "this repository"} | ours | {"times as fast": 1.0})
            for mode in MODES[model] if args.peer else ():
                print(f"peer, {mode}", flush=True)
                row = s4_repo.row("stepping", args, "plain", B=B, H=args.H, N=args.N, L=args.L, sizes={"mode": mode})
                found = {name: row[name] for name in ("us", "error", "note") if name in row}
                speed = {"times as fast": ours["us"] / found["us"]} if "us" in found else {}
                rows.append(sizes | {"steps of": f"S4 repository, {mode}"} | found | speed)
    return rows
