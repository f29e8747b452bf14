"""budget=lra: choose the width of a model so that it has as many parameters as the Transformer on the same task."""

import functools
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from lra.config.compose import composed
from lra.errors import UserError
from lra.profiling.parameters import TooLarge, count_built, fitting_width


def fit_to_budget(cfg: DictConfig, *, task: str, scale: str, overrides: list[str]) -> str:
    """Set model.d_model to the largest width within the budget; returns a line that describes the choice.

    task, scale, overrides  of the run; overrides of the task apply to the Transformer too
    raises                  UserError if no width fits, or the overrides set one themselves
    """
    if cfg.budget != "lra":
        raise UserError(f"budget={cfg.budget}: unknown", hint="null or lra")
    if any(o.lstrip("+").startswith("model.d_model=") for o in overrides):
        raise UserError("budget=lra chooses model.d_model", hint="leave out one of the two")
    reference = transformers_parameters(task, scale, [o for o in overrides if o.lstrip("+").startswith("task.")])
    spec = instantiate(cfg.task).spec

    def build() -> Any:
        try:
            return instantiate(cfg.model, spec=spec)
        except InstantiationException as error:
            raise error.__cause__ or error from None

    @functools.cache
    def count_at(width: int) -> int:
        cfg.model.d_model = width
        return count_built(build)

    recipe = cfg.model.d_model
    try:
        chosen = fitting_width(count_at, reference)
    except TooLarge as error:
        hint = smaller_model(cfg, build, error)
        raise UserError(f"budget=lra: on {task} the model {error}", hint=hint) from None
    except ValueError as error:
        raise ValueError(f"budget=lra: on {task} the model {error}") from None
    cfg.model.d_model = chosen
    return (
        f"budget lra: width {chosen} for the recipe's {recipe}, {count_at(chosen):,} parameters, "
        f"{100 * count_at(chosen) / reference:.1f} % of the Transformer's {reference:,}"
    )


def smaller_model(cfg: DictConfig, build: Callable[[], Any], error: TooLarge) -> str:
    """Hint for a model that is too large at its smallest width: fewer layers, if that is enough."""
    cfg.model.d_model = error.width

    def count_with(layers: int) -> int:
        cfg.model.n_layers = layers
        return count_built(build)

    if layers := bisect_right(range(1, cfg.model.n_layers), error.limit, key=count_with):
        return f"model.n_layers={layers} fits"
    part = "encoder" if "encoder" in cfg.model else "mixer"
    return (
        f"fewer layers do not help, one alone has {count_with(1):,}: "
        f"leave out budget=lra, or reduce the model by model.{part}.*"
    )


def transformers_parameters(task: str, scale: str, overrides: list[str]) -> int:
    """Number of parameters of the Transformer. overrides: of the task."""
    cfg = composed([f"task={task}", f"scale={scale}", "model=transformer", *overrides])["cfg"]
    spec = instantiate(cfg.task).spec
    return count_built(lambda: instantiate(cfg.model, spec=spec))
