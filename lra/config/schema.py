"""Types of every setting outside of task and model, and checks of a resolved configuration. Errors are one line."""

import inspect
import json
import re
from typing import Annotated, Any, Literal, get_type_hints

from hydra.errors import HydraException
from hydra.utils import get_object
from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError

from lra.config.overrides import nearest
from lra.errors import UserError
from lra.io.strict_json import StrictModel, check
from lra.training.config import Hardware, Training

Section = dict[str, Any]
# whole numbers that are at least 1, and further numbers that are positive, among the arguments of models and tasks
SIZES = re.compile(
    r"[nd]_\w+|\w+_(dim|size|len|width|bands|kernel)|max_args|max_depth|size|block|window|chunk|"
    r"rank|order|channels|truncation|short_filter|norm_groups"
)
MAY_BE_ZERO = ("n_random", "n_global", "conv_kernel")  # sizes that 0 switches off
POSITIVE = re.compile(r"dt_(min|max)|expand\w*|temperature|\w*frequency")


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
            target = get_object(node["_target_"])
            known = arguments_of(target)
        except (ImportError, HydraException) as error:
            raise UserError(f"{where}._target_={node['_target_']}: {error}") from None
        if where in ("model.mixer", "model.encoder") and not node.get("_partial_"):
            raise UserError(
                f"{where}: has no _partial_", hint="_partial_: true, since the model completes its arguments"
            )
        for key in node:
            if not key.startswith("_") and key not in known:
                raise UserError(f"{where}.{key}: {node['_target_']} has no argument {key}", hint=nearest(key, known))
        annotations = annotations_of(target)
        for key, value in node.items():
            if not (isinstance(value, dict) and "_target_" in value) and not key.startswith("_"):
                check_value(f"{where}.{key}", value, annotations.get(key, Any))
                check_range(f"{where}.{key}", value, default_of(target, key))
    for key, value in node.items():
        check_targets(value, f"{where}.{key}".lstrip("."))


def check_value(where: str, value: Any, annotation: Any) -> None:
    """UserError if a value is not of the annotated type, by the rules of strict JSON: 1 is a float, 1.0 no integer."""
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(strict=True))
    except PydanticUserError:  # the class checks it itself
        return
    try:
        adapter.validate_json(json.dumps(value))
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        expected = (
            annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("collections.abc.", "")
        )
        hint = "true or false" if annotation is bool else f"its type is {expected.replace('collections.abc.', '')}"
        raise UserError(f"{where}={json.dumps(value)}: {message[0].lower()}{message[1:]}", hint=hint) from None


def check_range(where: str, value: Any, default: Any) -> None:
    """UserError for a size or a number that is not positive; zero is accepted where it is the constructor's default."""
    name = where.rpartition(".")[2]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    least = 0 if name in MAY_BE_ZERO or (isinstance(default, int | float) and default == 0) else 1
    if SIZES.fullmatch(name) and value < least:
        raise UserError(f"{where}={value}: too small", hint=f"{name} is at least {least}")
    if POSITIVE.fullmatch(name) and value <= 0:
        raise UserError(f"{where}={value}: not positive", hint=f"{name} is more than 0")


def annotations_of(target: Any) -> dict[str, Any]:
    """Types of the arguments of a constructor, including those it passes on to its parents."""
    found: dict[str, Any] = {}
    for cls in reversed(inspect.getmro(target)) if inspect.isclass(target) else [target]:
        try:
            found |= get_type_hints(vars(cls).get("__init__") if inspect.isclass(cls) else cls, include_extras=True)
        except (NameError, TypeError):
            continue
    return found


def default_of(target: Any, name: str) -> Any:
    """The default of an argument of a constructor or its parents; None if there is none."""
    for cls in inspect.getmro(target) if inspect.isclass(target) else [target]:
        parameter = inspect.signature(cls).parameters.get(name) if cls is not object else None
        if parameter is not None:
            return None if parameter.default is parameter.empty else parameter.default
    return None


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
