"""Identity of a run, known before it starts."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RunSpec:
    """Which run this is: what a record says of it before anything has happened. `config` is portable and resolved."""

    task: str
    model: str
    title: str
    seed: int
    scale: str
    variant: list[str]
    config: dict[str, Any]
    config_hash: str
    recipe: str | None
    recipe_source: str | None
    command: str
    notes: list[str] = field(default_factory=list)
