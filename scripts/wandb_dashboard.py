"""Create a saved workspace and a report in an online W&B project.

    python scripts/wandb_dashboard.py me/lra                # create both and print their addresses
    python scripts/wandb_dashboard.py me/lra --scale mini   # report on this scale
    python scripts/wandb_dashboard.py me/lra --dry-run      # print them as JSON and send nothing

Each call creates a new view and a new report; runs are not changed. `make dashboard` shows offline runs.
"""

import handover

import argparse
import json
import re
import sys
from typing import Any

from lra import tracking
from lra.config.overrides import die
from lra.records.published import TASKS

COLUMNS = [
    "summary:test/accuracy",
    "summary:val/best",
    "summary:status",
    "config:task.value",
    "config:model.value",
    "config:seed.value",
    "config:data_kind.value",
    "config:variant.value",
]
# runs that the tables would show: ended well, with the settings of the scale
UNCHANGED = "Config('variant') = '' and SummaryMetric('status') = 'ok'"


def project(text: str) -> tuple[str, str]:
    """ENTITY/PROJECT of the command line."""
    found = re.fullmatch(r"([\w.-]+)/([\w.-]+)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not ENTITY/PROJECT, as in me/lra")
    return found[1], found[2]


def curves() -> list[Any]:
    """Panels of learning curves, and of accuracy against cost."""
    import wandb_workspaces.reports.v2 as wr

    step = {"x": "step", "groupby": wr.Config("row"), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    test = wr.SummaryMetric("test/accuracy")
    return [
        wr.LinePlot(title="Validation accuracy", y=["val/accuracy"], **step),
        wr.LinePlot(title="Validation MSE of forecasts", y=["val/mse"], **step),
        wr.LinePlot(title="Training loss", y=["train/loss"], log_y=True, **step),
        wr.BarPlot(title="Test accuracy", metrics=["test/accuracy"], groupby=wr.Config("row")),
        wr.ScatterPlot(title="Accuracy against speed", x=wr.SummaryMetric("steps_per_second"), y=test, log_x=True),
        wr.ScatterPlot(title="Accuracy against size", x=wr.SummaryMetric("parameters"), y=test, log_x=True),
        wr.WeavePanelSummaryTable(table_name="examples"),
    ]


def workspace(entity: str, name: str) -> Any:
    """The saved view: runs grouped by scale, task, model and variant, our panels first."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    rate = wr.LinePlot(title="Learning rate", x="step", y=["lr"])
    speed = wr.LinePlot(title="Steps a second", x="step", y=["steps_per_second"])
    return ws.Workspace(
        entity=entity,
        project=name,
        name="Long Range Arena",
        sections=[
            ws.Section(name="Results", panels=curves(), is_open=True),
            ws.Section(name="Training", panels=[rate, speed], is_open=True),
        ],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=50),
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Config(key) for key in ("scale", "task", "model", "variant")],
            order=[ws.Ordering(ws.Summary("test/accuracy"), ascending=False)],
            pinned_columns=COLUMNS,
        ),
        auto_generate_panels=True,
    )


def report(entity: str, name: str, scale: str) -> Any:
    """The report on one scale, with a chapter for each task; without variants and unfinished runs."""
    import wandb_workspaces.reports.v2 as wr

    intro = (
        f"Runs at scale {scale}, by task. Tables with significance, published numbers and failed seeds are made from "
        "the records: python scripts/wandb_pull.py, then make tables report."
    )
    blocks: list[Any] = [wr.TableOfContents(), wr.P(text=intro)]
    for task, title in TASKS.items():
        runs = wr.Runset(
            name=title,
            filters=f"Config('task') = '{task}' and Config('scale') = '{scale}' and {UNCHANGED}",
            groupby=["config.model"],
            order=[wr.OrderBy("summary.test/accuracy", ascending=False)],
        )
        blocks += [wr.H1(text=title), wr.PanelGrid(runsets=[runs], panels=curves())]
    return wr.Report(
        entity=entity,
        project=name,
        title=f"Long Range Arena, scale {scale}",
        description="Test accuracy of sequence models on six tasks, learning curves, speed and size.",
        blocks=blocks,
        width="fluid",
    )


def as_json(made: Any) -> Any:
    return json.loads(made._to_model().model_dump_json(by_alias=True, exclude_none=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=project, metavar="ENTITY/PROJECT", help="online project of the runs")
    parser.add_argument("--scale", default="paper", help="scale of the runs in the report")
    parser.add_argument("--dry-run", action="store_true", help="print both as JSON and send nothing")
    args = parser.parse_args()
    import wandb

    view, page = workspace(*args.project), report(*args.project, args.scale)
    if args.dry_run:
        print(json.dumps({"workspace": as_json(view), "report": as_json(page)}, indent=1))
        return 0
    if not tracking.has_key():
        die("no W&B key on this machine; hint: .venv/bin/wandb login", "wandb_dashboard.py")
    try:
        for made in (view, page):
            made.save()
            print(made.url)
    except Exception as error:
        where = "/".join(args.project)
        print(f"wandb_dashboard.py: {where}: W&B refused ({tracking.one_line(error)})", file=sys.stderr)
        return 1
    finally:
        wandb.teardown()
    return 0


if __name__ == "__main__":
    handover.run(main)
