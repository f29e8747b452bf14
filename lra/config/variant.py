"""The variant of a run: how its settings differ from those of the unchanged recipe, in one spelling.

Settings are the part of a resolved configuration that decides a result, nested by the keys of overrides.
"""

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from lra.errors import UserError
from lra.io.redact import portable

Settings = dict[str, Any]
SECTIONS = ("task", "model", "optimizer", "training")
PLATEAU = ("patience", "factor")  # settings of training that this schedule alone reads
CLASSIFIER = "lra.nn.classifier.Classifier"
BARE = re.compile(r"(?!(?i:null|true|false|nan|inf)\Z)[A-Za-z_][A-Za-z0-9_./-]*")
REMOVED = object()


def settings_of(cfg: DictConfig) -> Settings:
    """The settings of a configuration that decide its result: without paths, the seed, and settings of the machine."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    settings = {name: config[name] for name in (*SECTIONS, "pretrain", "pretraining")}
    settings["trainer"] = {"precision": config["trainer"]["precision"]}
    for key in ("root", "source", "seed"):
        settings["task"].pop(key, None)
    return portable(settings)


def hashed_config(settings: Settings) -> dict[str, Any]:
    """The configuration in the layout of records, whose hash identifies a run."""
    config = {name: settings[name] for name in SECTIONS} | {"precision": settings["trainer"]["precision"]}
    # newer than the first records
    absent = [key for key in ("minutes", *PLATEAU) if config["training"].get(key) is None]
    absent += PLATEAU if config["training"].get("schedule") != "plateau" else ()
    config["training"] = {key: value for key, value in config["training"].items() if key not in absent}
    mixer = config["model"].get("mixer") or {}
    if mixer.get("causal") is False:  # newer than the first records
        mixer = {key: value for key, value in mixer.items() if key != "causal"}
        config["model"] = config["model"] | {"mixer": mixer}
    if settings["pretrain"] is not None:
        config["pretrain"] = {"kind": settings["pretrain"], **settings["pretraining"]}
    return config


def unused(settings: Settings) -> dict[str, str | None]:
    """Keys of settings that nothing reads, with a hint for each: which setting to change instead."""
    model = settings["model"]
    found: dict[str, str | None] = {}
    encoder = model.get("encoder")
    if model.get("_target_") == CLASSIFIER and encoder is not None:
        for name in ("norm", "prenorm", "d_ff", "activation"):
            own = f"model.encoder.{name}" if name in encoder else None
            found[f"model.{name}"] = own or "the encoder of this model decides it"
        if not model.get("input_dropout"):
            found["model.tie_dropout"] = "model.input_dropout=0.1"
    elif model.get("_target_") == CLASSIFIER:
        if not model.get("d_ff"):
            found["model.activation"] = "model.d_ff=128"
        if not model.get("dropout") and not model.get("input_dropout"):
            found["model.tie_dropout"] = "model.dropout=0.1"
    for part in ("mixer", "encoder"):
        node = model.get(part) or {}
        if "tie_dropout" in node and not node.get("dropout", 0.1):
            found[f"model.{part}.tie_dropout"] = f"model.{part}.dropout=0.1"
    if settings["training"].get("minutes") is not None:
        found |= dict.fromkeys(("training.epochs", "training.steps"), "training.minutes=null")
    if settings["training"].get("schedule") != "plateau":
        found |= {f"training.{name}": "training.schedule=plateau" for name in PLATEAU}
    if settings["pretrain"] is None:
        found |= {f"pretraining.{name}": "pretrain=masked or pretrain=causal" for name in settings["pretraining"]}
    return found


def canonical(settings: Settings, base: Settings) -> Settings:
    """Settings with the values of `base` where the difference has no effect: 1.0 for 1, an unused key, a default."""
    settings = _normalised(settings, base)
    for key in unused(settings):
        *path, name = key.split(".")
        if contains(base, key) and isinstance(node := _at(settings, path), dict):
            node[name] = _at(base, [*path, name])
    return settings


def _at(node: Any, path: list[str]) -> Any:
    for name in path:
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _normalised(value: Any, base: Any) -> Any:
    if isinstance(value, dict):
        old = base if isinstance(base, dict) else {}
        added = [key for key in value if key not in old] if "_target_" in old else []
        dropped = {key for key in added if _is_default(value["_target_"], key, value[key])}
        return {key: _normalised(item, old.get(key)) for key, item in value.items() if key not in dropped}
    if isinstance(value, list):
        old_items = base if isinstance(base, list) and len(base) == len(value) else [None] * len(value)
        return [_normalised(item, old) for item, old in zip(value, old_items, strict=True)]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(base, int | float) and not isinstance(base, bool) and value == base:
        return base
    if isinstance(base, float):
        return float(value)
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _is_default(target: str, key: str, value: Any) -> bool:
    """Whether a constructor gives an argument this value by itself."""
    try:
        parameter = inspect.signature(get_object(target)).parameters.get(key)
    except (ValueError, TypeError, ImportError):
        return False
    return parameter is not None and type(parameter.default) is type(value) and parameter.default == value


def changes(settings: Settings, base: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of everything that differs from `base`, sorted; REMOVED is the value of a key that is gone.

    A dictionary that is one argument of a constructor is one value.
    """
    for name in sorted({*settings, *base}):
        new, old = settings.get(name, REMOVED), base.get(name, REMOVED)
        if isinstance(new, dict) and isinstance(old, dict) and (not prefix or "_target_" in old):
            yield from changes(new, old, f"{prefix}{name}.")
        elif new is REMOVED or old is REMOVED or json.dumps(new, sort_keys=True) != json.dumps(old, sort_keys=True):
            yield prefix + name, new


def contains(node: Settings, key: str) -> bool:
    """Whether a dotted key is among nested settings."""
    *path, name = key.split(".")
    return isinstance(parent := _at(node, path), dict) and name in parent


def word(key: str, value: Any) -> str:
    """A difference in its one spelling."""
    return f"~{key}" if value is REMOVED else f"{key}={spelled(value)}"


def words(key: str, value: Any, base: Settings) -> list[str]:
    """Overrides of a command line that make a difference to `base`; Hydra's merge would keep keys of a dictionary."""
    if value is REMOVED:
        return [f"~{key}"]
    if not contains(base, key):
        return [f"++{word(key, value)}"]
    return [f"~{key}", f"++{word(key, value)}"] if isinstance(value, dict) else [word(key, value)]


def spelled(value: Any) -> str:
    """A value as JSON, with plain names unquoted, as Hydra's command line reads it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{spelled(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(spelled, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    if BARE.fullmatch(value):
        return value
    escaped = re.sub(r'(\\*)("|\Z)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value)
    return f'"{escaped}"'


def check_effect(override: str, cfg: DictConfig, without: DictConfig) -> None:
    """UserError with a hint if an override changes its own key and nothing that decides the result.

    without  the configuration of the same command line without the override
    """
    key = override.split("=")[0].lstrip("+~")
    settings, base = settings_of(cfg), settings_of(without)
    same_value = OmegaConf.select(cfg, key) == OmegaConf.select(without, key)
    if not same_value and canonical(settings, base) == base:
        raise UserError(f"{override}: changes nothing in this run", hint=_effective(key, settings))


def _effective(key: str, settings: Settings) -> str | None:
    """The setting that has the effect which a key lacks."""
    if key in (known := unused(settings)):
        return known[key]
    name = key.partition(".")[2]
    if name == "trial_lr":
        return "optimizer.lr"
    places = [f"model.{name}", f"model.mixer.{name}", f"model.encoder.{name}"]
    return next((p for p in places if p not in known and _at(settings, p.split(".")) is not None), None)
