"""The record of one run: a JSON file that says what was run, on what, and what came out.

Everything a table, a plot or an audit states is computed from these files. A record is written whole or not at all,
read strictly (a file that is not exactly a record is refused in one line), and holds nothing of the machine's owner:
no absolute path, no secret.
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lra.io.redact import portable
from lra.io.strict_json import check, decode, layout, short, write_atomically
from lra.records import exhibits
from lra.records.exhibits import Example, Kernel
from lra.records.migrations import SCHEMA, migrate

Status = Literal["running", "ok", "diverged", "oom", "interrupted", "crashed"]
Kind = Literal["official", "generated", "subset", "toy"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")


@dataclass(frozen=True, kw_only=True)
class Data:
    """What was learned from. `chance` is the share of the commonest label of the test set, in [0, 1]."""

    kind: Kind
    fingerprint: str
    counts: dict[str, int]
    chance: float


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How the reported checkpoint was chosen, at which step, and whether by looking at the test set."""

    rule: str
    on_test: bool
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where it ran. `device` is the accelerator, or the processor where there is none; memory in MiB."""

    device: str
    processor: str
    cores: int
    threads: int
    memory_mib: int
    system: str


@dataclass(frozen=True, kw_only=True)
class Git:
    """Commit of the code; both None outside a repository. Files under results/ do not make a tree dirty."""

    commit: str | None
    dirty: bool | None


@dataclass(frozen=True, kw_only=True)
class Point:
    """One moment of the learning curve; None where not measured, or not finite. Accuracies in [0, 1]."""

    step: int
    train_loss: float | None = None
    train_accuracy: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    lr: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run of one (task, model, seed, scale, variant). Accuracies in [0, 1], times in seconds, memory in MiB.

    variant        command-line overrides that change the result; empty for the default cell
    reason         one line on why the status is not ok
    recipe         name of the recipe used, None if there is none (untuned); recipe_source cites where it comes from
    command        reruns this cell from the repository's root
    parameters     trainable numbers, real and imaginary parts counted apart
    flops          of a forward pass of one example of min(max_len, 1024) positions; see `lra.profiling.flops`
    last_test_accuracy  of the last checkpoint, whichever was selected
    """

    task: str
    model: str
    title: str
    seed: int
    scale: str
    variant: list[str] = field(default_factory=list)
    status: Status
    reason: str | None = None

    config: dict[str, Any]
    config_hash: str
    recipe: str | None
    recipe_source: str | None
    command: str

    git: Git
    versions: dict[str, str]
    hardware: Hardware
    precision: str
    kernel_backend: str | None = None

    data: Data
    parameters: int
    flops: int | None = None
    selection: Selection

    val_accuracy: float | None = None
    test_accuracy: float | None = None
    n_test: int | None = None
    test_correct: int | None = None
    last_test_accuracy: float | None = None

    steps_done: int = 0
    steps_total: int
    epochs: float | None = None
    train_seconds: float | None = None
    total_seconds: float | None = None
    steps_per_second: float | None = None
    peak_memory_mib: float | None = None
    curve: list[Point] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    kernels: list[Kernel] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    started: str
    finished: str | None = None
    wandb: str | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse a record that contradicts itself: ValueError naming the field and the value."""
        for name, value, why in contradictions(self):
            raise ValueError(f"{name} is {short(value)}: {why}")

    def path(self, root: Path) -> Path:
        """Where this record belongs below `root` (results/runs)."""
        return record_path(
            root, scale=self.scale, model=self.model, task=self.task, seed=self.seed, variant=self.variant
        )

    def text(self) -> str:
        """The file's content: text is made portable, the reason one line, a NaN in the curve null.

        raises ValueError if the config holds an absolute path or a secret: take `portable(config)`, and hash that
        """
        content = dataclasses.asdict(self)
        if portable(self.config) != self.config:
            raise ValueError("config holds an absolute path or a secret: take portable(config), and hash that")
        if self.reason is not None:
            content["reason"] = " ".join(self.reason.split())
        for point in content["curve"]:
            point.update({k: None for k, v in point.items() if v is not None and not math.isfinite(v)})
        # what the data says is no path, even where it looks like one
        content = {k: v if k in ("examples", "kernels") else portable(v) for k, v in content.items()}
        lists = ("curve", "examples", "kernels")
        return layout({"schema": content.pop("schema"), **content}, lists=lists, trees=("config",))

    def write(self, path: Path) -> None:
        """Write the file whole or not at all; what is written can be read."""
        text = self.text()
        parse(text, where=str(path))
        write_atomically(path, text, cure="results=/some/dir")


def contradictions(r: Record) -> Iterator[tuple[str, Any, str]]:
    """(field, value, why) of everything in a record that cannot be, types already being right."""
    for name in ("task", "model", "scale"):
        if not NAME.fullmatch(value := getattr(r, name)):
            yield name, value, "a name has letters, digits, '_', '-', '.' and starts with a letter or digit"
    for name in ("seed", "parameters", "steps_done", "steps_total"):
        if (value := getattr(r, name)) < 0:
            yield name, value, "cannot be negative"
    for name in ("val_accuracy", "test_accuracy", "last_test_accuracy"):
        if (value := getattr(r, name)) is not None and not 0 <= value <= 1:
            yield name, value, "an accuracy lies in [0, 1]"
    if not 0 < r.data.chance <= 1:
        yield "data.chance", r.data.chance, "a share of labels lies in (0, 1]"
    if any(n < 0 for n in r.data.counts.values()):
        yield "data.counts", r.data.counts, "cannot be negative"
    if r.flops is not None and r.flops < 0:
        yield "flops", r.flops, "cannot be negative"
    for name in ("epochs", "train_seconds", "total_seconds", "steps_per_second", "peak_memory_mib"):
        if (value := getattr(r, name)) is not None and not (math.isfinite(value) and value >= 0):
            yield name, value, "a finite number, not negative"
    if r.config_hash != (expected := config_hash(r.config)):
        yield "config_hash", r.config_hash, f"the config hashes to {expected}"
    for name in ("started", "finished"):
        if (value := getattr(r, name)) is not None and not UTC.fullmatch(value):
            yield name, value, "UTC as 2026-01-31T12:00:00Z is expected"
    if any(a.step >= b.step for a, b in zip(r.curve, r.curve[1:], strict=False)):
        yield "curve", [p.step for p in r.curve], "steps must increase"
    yield from exhibits.contradictions(r.examples, r.kernels)
    yield from _score_contradictions(r)


def _score_contradictions(r: Record) -> Iterator[tuple[str, Any, str]]:
    score = (r.test_accuracy, r.test_correct, r.n_test)
    if r.status == "ok" and (None in score or r.finished is None):
        yield "status", r.status, "needs test_accuracy, test_correct, n_test and finished"
    if r.status not in ("ok", "running") and not r.reason:
        yield "reason", r.reason, f"a run that ended {r.status} says why"
    if (r.test_accuracy is None) != (r.test_correct is None) or (r.test_correct is None) != (r.n_test is None):
        yield "test_accuracy", r.test_accuracy, "test_accuracy, test_correct and n_test come together"
    elif r.test_accuracy is not None and r.test_correct is not None and r.n_test is not None:
        if not 0 <= r.test_correct <= r.n_test or r.n_test == 0:
            yield "test_correct", r.test_correct, f"cannot be right on so many of {r.n_test} examples"
        elif abs(r.test_correct / r.n_test - r.test_accuracy) > 1e-6:
            yield "test_accuracy", r.test_accuracy, f"{r.test_correct} of {r.n_test} is another number"


# classes that have moved since the first records: recorded name -> today's
MOVED = {"lra.backbone.Classifier": "lra.nn.classifier.Classifier"}


def renamed(node: Any, names: Mapping[str, str]) -> Any:
    """A config with other names of classes (`_target_`)."""
    if isinstance(node, Mapping):
        return {
            k: names.get(v, v) if k == "_target_" and isinstance(v, str) else renamed(v, names) for k, v in node.items()
        }
    return [renamed(value, names) for value in node] if isinstance(node, list) else node


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a resolved config, as 64 hexadecimal digits; the order of keys is no matter,
    nor is it whether a class has its name of today or the recorded one.

    raises ValueError where the config is not JSON (a NaN, an infinity, a key that is no string)
    """
    check(config, dict[str, Any], "config")
    config = renamed(config, {new: old for old, new in MOVED.items()})
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def record_path(root: Path, *, scale: str, model: str, task: str, seed: int, variant: Sequence[str] = ()) -> Path:
    """<root>/<scale>/<model>/<task>/<seed>.json; a variant adds eight digits of its hash: <seed>-<hash8>.json.

    The hash depends on the set of overrides, not on their order.
    """
    suffix = "-" + hashlib.sha256("\n".join(sorted(variant)).encode()).hexdigest()[:8] if variant else ""
    return Path(root) / scale / model / task / f"{seed}{suffix}.json"


def parse(text: str, where: str) -> Record:
    """A record from JSON text; `where` names the file in the one-line ValueError."""
    try:
        return check(migrate(decode(text)), Record, "")
    except RecursionError:
        raise ValueError(f"{where}: nested too deeply to be a record") from None
    except ValueError as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from None
