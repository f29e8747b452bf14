"""A real run of seconds on toy data."""

from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from helpers.compose import classifier, compose
from lra.records.record import Record, config_hash
from lra.records.run_spec import RunSpec
from lra.training.config import Hardware, Training
from lra.training.run import run


def small_run(folder: Path, *overrides: str, **given) -> Record:
    """Train a few steps in this process; weights go to `folder`/run, data to `folder`/data.

    given  further arguments of lra.training.run.run
    """
    words = ["task=listops", "model=transformer", "scale=smoke", "data.source=toy", f"data.root={folder / 'data'}"]
    cfg = compose(*words, *overrides)
    torch.manual_seed(0)
    module = instantiate(cfg.task)
    module.prepare_data()
    module.setup()
    content = OmegaConf.to_container(cfg, resolve=True)
    config = {k: content[k] for k in ("task", "model", "optimizer", "training")}
    for key in ("root", "source", "seed"):
        config["task"].pop(key, None)
    model = next((o.split("=")[1] for o in overrides if o.startswith("model=")), "transformer")
    words = [cfg.task.name, model, model.title(), 0, "smoke", []]
    cell = RunSpec(*words, config, config_hash(config), None, None, "python scripts/train.py")
    return run(
        cell,
        data=module,
        model=classifier(cfg, module.spec),
        optimizer=content["optimizer"],
        training=Training(**content["training"]),
        hardware=Hardware(accelerator="cpu"),
        folder=folder / "run",
        **given,
    )
