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
from lra.objectives.objective import Objective, objective_of, objectives
from lra.records.published import TASKS
from lra.tables.other_tasks import OTHER_TABLES

COLUMNS = [
    *(f"summary:test/{name}" for name in dict.fromkeys(objective.metric.name for objective in objectives())),
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


def curves(objective: Objective) -> list[Any]:
    """Panels of learning curves, of the test's metrics, and of the first one against cost."""
    import wandb_workspaces.reports.v2 as wr

    step = {"x": "step", "groupby": wr.Config("row"), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    first, test = objective.metric.title, wr.SummaryMetric(f"test/{objective.metric.name}")
    bars = [(m, {"metrics": [f"test/{m.name}"], "groupby": wr.Config("row")}) for m in objective.metrics]
    return [
        *(wr.LinePlot(title=f"Validation {m.title}", y=[f"val/{m.name}"], **step) for m in objective.metrics),
        wr.LinePlot(title="Training loss", y=["train/loss"], log_y=True, **step),
        *(wr.BarPlot(title=f"Test {m.title}", **about) for m, about in bars),
        wr.ScatterPlot(title=f"Test {first}, speed", x=wr.SummaryMetric("steps_per_second"), y=test, log_x=True),
        wr.ScatterPlot(title=f"Test {first}, size", x=wr.SummaryMetric("parameters"), y=test, log_x=True),
        wr.WeavePanelSummaryTable(table_name="examples"),
    ]


def workspace(entity: str, name: str) -> Any:
    """The saved view: runs grouped by scale, task, model and variant; a section of panels for each objective."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    main = objective_of("classification")
    rate = wr.LinePlot(title="Learning rate", x="step", y=["lr"])
    speed = wr.LinePlot(title="Steps a second", x="step", y=["steps_per_second"])
    return ws.Workspace(
        entity=entity,
        project=name,
        name="Long Range Arena",
        sections=[
            *(
                ws.Section(name=objective.name.capitalize(), panels=curves(objective), is_open=objective == main)
                for objective in sorted(objectives(), key=lambda each: each != main)
            ),
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
    """The report on one scale, without variants and unfinished runs.

    A chapter for each task of LRA, and for each table of other tasks, except a table that another one contains.
    """
    import wandb_workspaces.reports.v2 as wr

    intro = (
        f"Runs at scale {scale}, by task. Tables with significance, published numbers and failed seeds are made from "
        "the records: python scripts/wandb_pull.py, then make tables report."
    )
    blocks: list[Any] = [wr.TableOfContents(), wr.P(text=intro)]
    chapters = [(title, objective_of("classification"), [task]) for task, title in TASKS.items()]
    tasks_of = {name: {setting.task for setting in table.settings} for name, table in OTHER_TABLES.items()}
    chapters += [
        (table.title.split(":")[0], objective_of(table.objective), sorted(tasks_of[name]))
        for name, table in OTHER_TABLES.items()
        if not any(tasks_of[name] < others for others in tasks_of.values())
    ]
    for title, objective, tasks in chapters:
        metric = objective.metric
        runs = wr.Runset(
            name=title,
            filters=f"Config('task') in {tasks} and Config('scale') = '{scale}' and {UNCHANGED}",
            groupby=["config.task", "config.model"],
            order=[wr.OrderBy(wr.SummaryMetric(f"test/{metric.name}"), ascending=not metric.higher_is_better)],
        )
        blocks += [wr.H1(text=title), wr.PanelGrid(runsets=[runs], panels=curves(objective))]
    return wr.Report(
        entity=entity,
        project=name,
        title=f"Long Range Arena, scale {scale}",
        description="Test results of sequence models on LRA and the S4 paper's other tasks, curves, speed and size.",
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
