"""Configurations as `scripts/train.py` composes them, for tests. Names come from the file system."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from lra.config.compose import composed
from lra.config.overrides import options as names
from lra.nn.classifier import Classifier
from lra.paths import CONFIGS

__all__ = ["CONFIGS", "classifier", "compose", "names"]


def compose(*overrides: str) -> DictConfig:
    return composed(list(overrides))["cfg"]


def classifier(cfg: DictConfig, spec) -> Classifier:
    return instantiate(cfg.model, spec=spec)
