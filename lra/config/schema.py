"""Types of every setting outside of task and model, and checks of a resolved configuration. Errors are one line."""

import inspect
from typing import Annotated, Any, Literal

from hydra.errors import HydraException
from hydra.utils import get_object
from pydantic import Field

from lra.config.overrides import nearest
from lra.errors import UserError
from lra.io.strict_json import StrictModel, check
from lra.training.config import Hardware, Training

Section = dict[str, Any]


class Optimizer(StrictModel):
    """Arguments of AdamW."""

    lr: float
    weight_decay: float
    betas: Annotated[list[float], Field(min_length=2, max_length=2)]
    eps: float


class Data(StrictModel):
    """Where data comes from."""

    root: str
    source: str


class Wandb(StrictModel):
    """Settings of the W&B run."""

    mode: str
    project: str
    entity: str | None
    group: str | None
    tags: list[str]
    artifacts: bool
    histograms: bool


class Configuration(StrictModel):
    """The sections of configs/train.yaml. `training` and `trainer` have their own classes in lra.training.config."""

    task: Section
    model: Section
    family: Section
    optimizer: Optimizer
    training: Section
    trainer: Section
    pretrain: str | None
    pretraining: Section
    budget: str | None
    data: Data
    wandb: Wandb
    seed: int
    force: bool
    resume: Literal["exact", "anyway"]
    results: str
    runs: str


def check_configuration(cfg: Section) -> None:
    """UserError or ValueError, one line that names the key, if a resolved configuration cannot be run."""
    check_targets(cfg)
    for name in cfg:
        if name not in Configuration.model_fields:
            raise UserError(f"{name}: no such section", hint=nearest(name, list(Configuration.model_fields)))
    check(cfg, Configuration, "")
    check(cfg["training"], Training, "training")
    check(cfg["trainer"], Hardware, "trainer")
    for section in ("task", "model"):
        if "_target_" not in cfg[section]:
            raise UserError(f"{section}: has no _target_, so it cannot be built")


def check_targets(node: Any, where: str = "") -> None:
    """UserError if a key of the configuration is no argument of the class it configures (also in a recipe)."""
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        try:
            known = arguments_of(get_object(node["_target_"]))
        except (ImportError, HydraException) as error:
            raise UserError(f"{where}._target_={node['_target_']}: {error}") from None
        if where in ("model.mixer", "model.encoder") and not node.get("_partial_"):
            raise UserError(
                f"{where}: has no _partial_", hint="_partial_: true, since the model completes its arguments"
            )
        for key in node:
            if not key.startswith("_") and key not in known:
                raise UserError(f"{where}.{key}: {node['_target_']} has no argument {key}", hint=nearest(key, known))
    for key, value in node.items():
        check_targets(value, f"{where}.{key}".lstrip("."))


def arguments_of(target: Any) -> list[str]:
    """Names a constructor takes, including those it passes on to its parents."""
    names: list[str] = []
    for cls in inspect.getmro(target) if inspect.isclass(target) else [target]:
        if cls is target or "__init__" in vars(cls):
            parameters = inspect.signature(cls).parameters.values()
            names += [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return names
