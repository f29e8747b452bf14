"""What a job of a cluster asks for: the settings of configs/launcher, and which cells they are for."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, get_type_hints

import yaml

from lra.io.strict_json import check
from lra.launch.grid import GridJob
from lra.paths import CONFIGS, ROOT

TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?")


class Refused(Exception):
    """What a user can mend; one line."""


def refuse(message: str) -> NoReturn:
    raise Refused(message)


@dataclass(frozen=True)
class Resources:
    """What a job asks for; the names are those of configs/launcher/slurm.yaml."""

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
    more: dict[str, Any] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)

    @property
    def minutes(self) -> int:
        # YAML reads 24:00:00 as a number in base 60
        seconds = self.time if isinstance(self.time, int) else None
        if seconds is None:
            parts = TIME.fullmatch(str(self.time)) or refuse(
                f"time {self.time}: [days-]hours:minutes[:seconds] is expected"
            )
            days, hours, minutes, rest = (int(part or 0) for part in parts.groups())
            seconds = ((24 * days + hours) * 60 + minutes) * 60 + rest
        return max(1, round(seconds / 60))

    @property
    def processes(self) -> int:
        """Of each node: one for each GPU, or one."""
        return max(1, self.gpus)

    def parameters(self) -> dict[str, Any]:
        """Arguments of submitit's executor."""
        asked: dict[str, Any] = {
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
            asked["gpus_per_node"] = self.gpus
        named = {name: getattr(self, name) for name in ("partition", "account", "qos", "comment")}
        return asked | {name: value for name, value in named.items() if value is not None}


def classes_of(cells: Sequence[GridJob], settings: dict[str, Any]) -> dict[str, tuple[Resources, list[GridJob]]]:
    """Cells by what they ask for; raises Refused for a setting that is unknown."""
    settings = dict(settings)
    special = settings.pop("classes", None) or []
    found: dict[str, tuple[Resources, list[GridJob]]] = {}
    for cell in cells:
        own = next((c for c in special if _matches(c.get("match", {}), cell)), {})
        merged = settings | {k: v for k, v in own.items() if k != "match"}
        if unknown := sorted(set(merged) - set(Resources.__dataclass_fields__)):
            known = ", ".join(Resources.__dataclass_fields__)
            refuse(f"{unknown[0]}: no such setting of a launcher (known: {known}, classes)")
        try:
            for name, hint in get_type_hints(Resources).items():
                if name in merged and name != "time":
                    check(merged[name], hint, name)
        except ValueError as error:
            refuse(f"setting of the launcher: {error}")
        key = json.dumps(merged, sort_keys=True, default=str)
        found.setdefault(key, (Resources(**merged), []))[1].append(cell)
    return found


def _matches(conditions: dict[str, Any], cell: GridJob) -> bool:
    for name, wanted in conditions.items():
        if name not in ("task", "model", "scale", "seed"):
            refuse(f"classes: match on {name}: task, model, scale or seed is expected")
        if getattr(cell, name) not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


def settings_of(launcher: str) -> dict[str, Any]:
    """What configs/launcher/<launcher>.yaml says."""
    path = CONFIGS / "launcher" / f"{launcher}.yaml"
    try:
        return check(yaml.safe_load(path.read_text()), dict[str, Any], path.name)
    except (yaml.YAMLError, ValueError) as error:
        refuse(f"{path.relative_to(ROOT)}: {' '.join(str(error).split())}")
