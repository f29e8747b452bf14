"""Configurations as `scripts/train.py` composes them, for tests. Names come from the file system."""

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from lra.config import tuned
from lra.nn.classifier import Classifier
from lra.paths import CONFIGS

tuned.offer()


def names(group: str) -> list[str]:
    return sorted(p.stem for p in (CONFIGS / group).glob("*.yaml") if not p.stem.startswith("_"))


def compose(*overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides))


def classifier(cfg: DictConfig, spec) -> Classifier:
    return instantiate(cfg.model, spec=spec)
