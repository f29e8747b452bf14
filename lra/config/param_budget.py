"""budget=lra: any model at the size of the Transformer on the same task."""

import functools
from bisect import bisect_right
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from lra.paths import CONFIGS
from lra.profiling.parameters import TooLarge, count_built, fitting_width


def sized(cfg: DictConfig, *, task: str, scale: str, overrides: list[str]) -> str:
    """Sets model.d_model to the width that the budget of cfg allows, and says in a line what that is.

    task, scale, overrides  the run's; the Transformer to compare with gets the overrides of the task too
    raises                  ValueError if no width fits, or the overrides name one themselves
    """
    if cfg.budget != "lra":
        raise ValueError(f"budget={cfg.budget}: not one of null, lra")
    if any(o.lstrip("+").startswith("model.d_model=") for o in overrides):
        raise ValueError("budget=lra chooses model.d_model: leave out one of the two")
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
        raise ValueError(f"budget=lra: on {task} the model {error}; {cure(cfg, build, error)}") from None
    except ValueError as error:
        raise ValueError(f"budget=lra: on {task} the model {error}") from None
    cfg.model.d_model = chosen
    return (
        f"budget lra: width {chosen} for the recipe's {recipe}, {count_at(chosen):,} parameters, "
        f"{100 * count_at(chosen) / reference:.1f} % of the Transformer's {reference:,}"
    )


def cure(cfg: DictConfig, build: Callable[[], Any], error: TooLarge) -> str:
    """What makes a model fit that is too large at the least width: fewer layers, if any number is few enough."""
    cfg.model.d_model = error.width

    def count_with(layers: int) -> int:
        cfg.model.n_layers = layers
        return count_built(build)

    if layers := bisect_right(range(1, cfg.model.n_layers), error.limit, key=count_with):
        return f"give it fewer layers: model.n_layers={layers} fits"
    part = "encoder" if "encoder" in cfg.model else "mixer"
    return (
        f"fewer layers do not help, for one alone makes it {count_with(1):,}: "
        f"leave budget=lra out, or make it smaller by settings of its own (model.{part}.*)"
    )


def transformers_parameters(task: str, scale: str, more: list[str]) -> int:
    """How many the Transformer has. more: overrides of the task."""
    # inside a run Hydra is there already; in a worker of a launcher it is not
    there = GlobalHydra.instance().is_initialized()
    with nullcontext() if there else hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra.compose("train", overrides=[f"task={task}", f"scale={scale}", "model=transformer", *more])
    spec = instantiate(cfg.task).spec
    return count_built(lambda: instantiate(cfg.model, spec=spec))
