"""Specification of a run: what its record states before it starts."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RunSpec:
    """Identity and configuration of a run, named as in its record. `config` is resolved and portable."""

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
