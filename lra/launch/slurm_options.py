"""Resources that SLURM jobs request: the settings of configs/launcher, and the jobs they apply to."""

import json
import re
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import Field

from lra.errors import UserError
from lra.io.strict_json import StrictModel, check
from lra.launch.grid import GridJob
from lra.paths import CONFIGS, ROOT

TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?")


class Resources(StrictModel):
    """What a job requests; the names are those of configs/launcher/slurm.yaml."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | int = "24:00:00"
    nodes: int = 1
    gpus: int = 1
    cpus: int = 8
    memory: float = 32
    parallel: int = 64
    warning: int = 120
    requeues: int = 50
    comment: str | None = None
    more: dict[str, Any] = Field(default_factory=dict)
    setup: list[str] = Field(default_factory=list)

    @property
    def minutes(self) -> int:
        if isinstance(self.time, int):  # YAML reads 24:00:00 as a number in base 60
            seconds = self.time
        else:
            if (found := TIME.fullmatch(self.time)) is None:
                raise UserError(f"time {self.time}: not a time", hint="[days-]hours:minutes[:seconds]")
            days, hours, minutes, rest = (int(part or 0) for part in found.groups())
            seconds = ((24 * days + hours) * 60 + minutes) * 60 + rest
        return max(1, round(seconds / 60))

    @property
    def processes(self) -> int:
        """Processes on each node: one for each GPU, at least one."""
        return max(1, self.gpus)

    def parameters(self) -> dict[str, Any]:
        """Arguments of submitit's executor."""
        parameters: dict[str, Any] = {
            "job_name": "lra",
            "time": self.minutes,
            "nodes": self.nodes,
            "ntasks_per_node": self.processes,
            "cpus_per_task": self.cpus,
            "mem": f"{round(self.memory * 1024)}M",
            "array_parallelism": self.parallel,
            "signal_delay_s": self.warning,
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True, **self.more},
            "setup": list(self.setup),
        }
        if self.gpus:
            parameters["gpus_per_node"] = self.gpus
        optional = {name: getattr(self, name) for name in ("partition", "account", "qos", "comment")}
        return parameters | {name: value for name, value in optional.items() if value is not None}


def group_by_resources(cells: Sequence[GridJob], settings: dict[str, Any]) -> list[tuple[Resources, list[GridJob]]]:
    """Jobs that request the same, together. UserError for a setting that is unknown or has a wrong value."""
    settings = dict(settings)
    classes = settings.pop("classes", None) or []
    found: dict[str, tuple[Resources, list[GridJob]]] = {}
    for cell in cells:
        own: dict[str, Any] = next((c for c in classes if _matches(c.get("match", {}), cell)), {})
        merged = settings | {k: v for k, v in own.items() if k != "match"}
        if unknown := sorted(set(merged) - set(Resources.model_fields)):
            known = ", ".join(Resources.model_fields)
            raise UserError(f"{unknown[0]}: no such setting of a launcher (known: {known}, classes)")
        key = json.dumps(merged, sort_keys=True, default=str)
        if key not in found:
            found[key] = check(merged, Resources, "launcher"), []
        found[key][1].append(cell)
    return list(found.values())


def _matches(conditions: dict[str, Any], cell: GridJob) -> bool:
    for name, wanted in conditions.items():
        if name not in ("task", "model", "scale", "seed"):
            raise UserError(f"classes: cannot match {name}", hint="task, model, scale or seed")
        if getattr(cell, name) not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


def launcher_settings(launcher: str) -> dict[str, Any]:
    """Content of configs/launcher/<launcher>.yaml."""
    path = CONFIGS / "launcher" / f"{launcher}.yaml"
    try:
        return check(yaml.safe_load(path.read_text()), dict[str, Any], path.name)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path.relative_to(ROOT)}: {' '.join(str(error).split())}") from None
