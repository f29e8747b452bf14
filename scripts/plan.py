"""Measure the device hours and memory of a grid on this machine.

    python scripts/plan.py --scale paper --models s4,transformer     # measure what is unknown, then print a table
    make lra-all SCALE=mini ARGS=--dry-run                           # the same table without measuring, and commands

The cost of a cell comes from a record of the same cell (any seed) made on equal hardware, or else from a few steps
measured here (lra/launch/cost.py) and stored in runs/plan.json.
"""

import handover

import argparse
from pathlib import Path

from rich.console import Console

from lra.config.overrides import check_choices, die, limited, options
from lra.errors import UserError
from lra.io.atomic import atomic_write
from lra.launch.grid import cells_of
from lra.launch.plan import costs, key_of, markdown, measure, table_of
from lra.records.published import TASKS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="paper", choices=options("scale"), help="default: paper")
    parser.add_argument("--models", default="s4,transformer", help="comma-separated; all: all that run on every task")
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds to measure each model and task")
    parser.add_argument("--again", action="store_true", help="measure even what is known")
    parser.add_argument("--markdown", type=Path, help="write the costs of single runs to this file, too")
    parser.add_argument("--results", type=Path, default=Path("results/runs"), help="folder of records")
    parser.add_argument("overrides", nargs="*", help="more arguments of scripts/train.py, for every cell")
    args = parser.parse_args()
    models = [m for m in options("model") if m not in limited()] if args.models == "all" else args.models.split(",")
    tasks = args.tasks.split(",")
    try:
        check_choices("model", models)
        check_choices("task", tasks)
    except UserError as error:
        die(error, "plan.py")
    cells = cells_of(models, tasks, range(args.seeds), args.scale, args.results, args.overrides)
    single = list({key_of(cell): cell for cell in cells}.values())
    known = costs(cells)
    console = Console(stderr=True)
    failed = measure([c for c in single if args.again or key_of(c) not in known], args.patience, console)
    Console().print(table_of(cells, args.jobs))
    for line in failed:
        console.print(f"not measured: {line}", highlight=False, soft_wrap=True, style="red", markup=False)
    if args.markdown:
        atomic_write(args.markdown, markdown(single))
    return 1 if failed else 0


if __name__ == "__main__":
    handover.run(main)
