"""The configuration of a cell, and what its record says of it before anything has happened."""

from collections.abc import Mapping
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from lra.config import tuned
from lra.config.overrides import variant_of
from lra.io.redact import portable
from lra.paths import CONFIGS, ROOT
from lra.records.published import load_published
from lra.records.record import config_hash
from lra.records.run_spec import RunSpec

tuned.offer()


def composed(words: list[str]) -> dict[str, Any]:
    """The configuration of a command line outside Hydra's own main: the arguments of `lra.launch.job.one`."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra.compose("train", overrides=words, return_hydra_config=True)
    about = cfg.hydra
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    OmegaConf.set_struct(cfg, True)
    return {"cfg": cfg, "choices": dict(about.runtime.choices), "overrides": list(about.overrides.task)}


def decisive(cfg: DictConfig, variant: list[str]) -> dict[str, Any]:
    """What decides the result of a cell, and nothing of this machine: its hash stands for the cell.

    variant  the overrides that make another result
    """
    config = OmegaConf.to_container(cfg, resolve=True)
    result = {k: config[k] for k in ("task", "model", "optimizer", "training")} | {"precision": cfg.trainer.precision}
    if cfg.pretrain is not None:
        result["pretrain"] = {"kind": cfg.pretrain, **config["pretraining"]}
    elif any(word.startswith("pretraining.") for word in variant):
        raise ValueError("pretraining.* without pretrain=masked or pretrain=causal changes nothing: leave it out")
    for key in ("root", "source", "seed"):
        result["task"].pop(key, None)
    return portable(result)


def cell_of(cfg: DictConfig, *, choices: Mapping[str, str], overrides: list[str]) -> RunSpec:
    """What the record says of this run before it starts.

    choices    of Hydra, group -> name
    overrides  of the command line
    """
    model, task, scale = choices["model"], choices["task"], choices["scale"]
    variant = variant_of(overrides)
    config = decisive(cfg, variant)
    recipe, source, notes = tuned.recipe_of(model, task, str(choices.get("recipe")))
    words = [f"task={task}", f"model={model}", f"scale={scale}", f"seed={cfg.seed}", *variant]
    return RunSpec(
        task=task,
        model=model,
        title=load_published(ROOT / "results" / "published").model(model).title,
        seed=cfg.seed,
        scale=scale,
        variant=variant,
        config=config,
        config_hash=config_hash(config),
        recipe=recipe,
        recipe_source=source,
        command=" ".join(["python scripts/train.py", *words]),
        notes=notes,
    )
