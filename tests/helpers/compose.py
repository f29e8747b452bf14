"""Configurations as `scripts/train.py` composes them, for tests. Names come from the file system."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from lra.config.compose import composed
from lra.config.overrides import forecasters, limited, options
from lra.nn.classifier import Classifier
from lra.paths import CONFIGS

__all__ = ["CONFIGS", "classifier", "compose", "forecasters", "limited", "names"]


def names(group: str) -> list[str]:
    """Choices of a group; models without those that cannot run on every task of LRA."""
    return [name for name in options(group) if name not in limited()]


def compose(*overrides: str) -> DictConfig:
    return composed(list(overrides))["cfg"]


def classifier(cfg: DictConfig, spec) -> Classifier:
    return instantiate(cfg.model, spec=spec)
