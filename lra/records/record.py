"""The record of a run: a JSON file with its configuration, code, machine, data, learning curve and result.

Every table, plot and audit is computed from these files. They are written atomically, read strictly, and contain no
absolute path and no secret. Pictures are PNG files in base64.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from lra.io.atomic import atomic_write
from lra.io.redact import portable
from lra.io.strict_json import StrictModel, check, decode, layout, require_json
from lra.objectives.objective import objective_of
from lra.records.migrations import SCHEMA, migrate

Status = Literal["running", "ok", "diverged", "oom", "interrupted", "crashed"]
Kind = Literal["official", "generated", "subset", "toy"]


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Time = Annotated[str, Field(pattern=r"^[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}(\.[0-9]+)?(Z|\+00:00)$")]  # UTC
Picture = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+={0,2}$")]  # base64
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


def _increasing(values: list) -> list:
    positions = [getattr(value, "step", value) for value in values]
    if any(a >= b for a, b in pairwise(positions)):
        raise ValueError("steps and positions must increase")
    return values


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Measurement = Annotated[float | None, BeforeValidator(_finite_or_none)]


class Data(StrictModel):
    """The data set. `trivial` is the score on the test set of the best answer that ignores the input.

    For a classification that is the share of the commonest label; see `lra.objectives`.
    """

    kind: Kind
    fingerprint: str
    counts: dict[str, Count]
    trivial: Annotated[float, Field(gt=0)]


class Selection(StrictModel):
    """How the reported checkpoint was chosen, at which step, and whether by looking at the test set."""

    rule: str
    on_test: bool
    step: int | None = None


class Hardware(StrictModel):
    """The machine. `device` is the accelerator, or the processor where there is none; memory in MiB."""

    device: str
    processor: str
    cores: int
    threads: int
    memory_mib: int
    system: str


class Git(StrictModel):
    """Commit of the code; both None outside a repository. Files under results/ do not make a tree dirty."""

    commit: str | None
    dirty: bool | None


class Code(StrictModel):
    """Fingerprints of the source of model and task, and of the framework's numerics; see `lra.records.code`."""

    model: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    framework: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]


class Point(StrictModel):
    """One point of the learning curve; None where not measured, or not finite. Scores: the objective's first metric."""

    step: int
    train_loss: Measurement = None
    train_score: Measurement = None
    val_loss: Measurement = None
    val_score: Measurement = None
    lr: Measurement = None
    seconds: Measurement = None


class Forecast(StrictModel):
    """The last column of a series: the end of the input, the target and the prediction, to four digits."""

    context: list[float]
    target: list[float]
    predicted: list[float]


class Example(StrictModel):
    """A test input in readable form, text or a grey picture, with its label and the prediction.

    probability  of the predicted label according to the model
    forecast     instead of all others, where the task is a series
    Without a label, the text or picture was drawn from the model.
    """

    label: int | None = None
    predicted: int | None = None
    forecast: Forecast | None = None
    probability: Share | None = None
    text: str | None = None
    picture: Picture | None = None

    @model_validator(mode="after")
    def _answer_or_forecast(self) -> Self:
        answered = self.label is not None and self.predicted is not None
        if (self.label is None) != (self.predicted is None) or (answered and self.forecast is not None):
            raise ValueError("label and predicted, or a forecast")
        if not answered and (self.forecast is not None) == (self.text is not None or self.picture is not None):
            raise ValueError("one of label and predicted, a forecast, or a sample's text or picture")
        return self

    @property
    def is_sample(self) -> bool:
        """Whether it was drawn from the model."""
        return self.label is None and self.forecast is None


class Kernel(StrictModel):
    """The convolution kernel of one feature before and after training: the weight of an input by its age in positions.

    layer, feature  counted from 0, among the layers that have kernels
    length          positions
    starts          first position of each range; ranges grow wider
    before, after   [lowest value in each range, highest value in each range]
    picture_before, picture_after  the kernel laid out as the image whose rows make the sequence; None for other inputs
    """

    layer: int
    feature: int
    length: int
    starts: Annotated[list[int], AfterValidator(_increasing)]
    before: list[list[float]]
    after: list[list[float]]
    picture_before: Picture | None = None
    picture_after: Picture | None = None

    @field_validator("before", "after")
    @classmethod
    def _two_values_per_range(cls, lines: list[list[float]], info: ValidationInfo) -> list[list[float]]:
        n = len(info.data.get("starts", ()))
        if [len(line) for line in lines] != [n, n]:
            raise ValueError(f"two lists of {n} values are expected")
        return lines


class Record(StrictModel):
    """One run of one (task, model, seed, scale, variant). Accuracies in [0, 1], times in seconds, memory in MiB.

    objective      name of its file in lra/objectives; scores are values of its first metric

    variant        command-line overrides that change the result; empty for the default run
    reason         one line on why the status is not ok
    recipe         name of the recipe used, None if there is none (untuned); recipe_source cites its origin
    command        repeats this run from the repository's root
    code           fingerprints of the source it ran through; None in older records
    parameters     trainable numbers, real and imaginary parts counted separately
    flops          of a forward pass of one example of min(max_len, 1024) positions; see `lra.profiling.flops`
    test_totals    exact sums over the test set, from which every metric follows: {"correct": 57, "examples": 80}
    """

    task: Name
    model: Name
    title: str
    seed: Count
    scale: Name
    objective: Name = "classification"
    variant: list[str] = Field(default_factory=list)
    status: Status
    reason: str | None = None

    config: dict[str, Any]
    config_hash: str
    recipe: str | None
    recipe_source: str | None
    command: str

    git: Git
    code: Code | None = None
    versions: dict[str, str]
    hardware: Hardware
    precision: str
    kernel_backend: str | None = None

    data: Data
    parameters: Count
    flops: Count | None = None
    selection: Selection

    val_score: Amount | None = None
    test_score: Amount | None = None
    test_totals: dict[str, Count | Amount] | None = None

    steps_done: Count = 0
    steps_total: Count
    epochs: Amount | None = None
    train_seconds: Amount | None = None
    total_seconds: Amount | None = None
    steps_per_second: Amount | None = None
    peak_memory_mib: Amount | None = None
    curve: Annotated[list[Point], AfterValidator(_increasing)] = Field(default_factory=list)
    examples: list[Example] = Field(default_factory=list)
    kernels: list[Kernel] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    started: Time
    finished: Time | None = None
    wandb: str | None = None

    @field_validator("config_hash")
    @classmethod
    def _hash_of_the_config(cls, given: str, info: ValidationInfo) -> str:
        if "config" in info.data and given != (expected := config_hash(info.data["config"])):
            raise ValueError(f"the config hashes to {expected}")
        return given

    @model_validator(mode="after")
    def _scores_are_possible(self) -> Self:
        metric = objective_of(self.objective).metric
        for name, value in {"data.trivial": self.data.trivial, "val_score": self.val_score}.items():
            if metric.percent and value is not None and value > 1:
                raise ValueError(f"{name} is {value}: a share is at most 1")
        return self

    @model_validator(mode="after")
    def _status_fits_result(self) -> Self:
        score, totals = self.test_score, self.test_totals
        if self.status == "ok" and (score is None or totals is None or self.finished is None):
            raise ValueError("status is 'ok': needs test_score, test_totals and finished")
        if self.status not in ("ok", "running") and not self.reason:
            raise ValueError(f"reason is {self.reason!r}: a run with status {self.status} needs one")
        if score is None or totals is None:
            if (score, totals) != (None, None):
                raise ValueError(f"test_score is {score}: test_totals must be given with it")
            return self
        objective = objective_of(self.objective)
        if problem := objective.problem(totals):
            raise ValueError(f"test_totals: {problem}")
        if not math.isclose(objective.score(totals), score, rel_tol=1e-6, abs_tol=1e-6):
            raise ValueError(f"test_score is {score}: differs from {objective.score(totals)} of test_totals")
        return self

    def path(self, root: Path) -> Path:
        """The file of this record below `root` (results/runs)."""
        return record_path(
            root, scale=self.scale, model=self.model, task=self.task, seed=self.seed, variant=self.variant
        )

    def text(self) -> str:
        """The content of the file: without absolute paths and secrets, the reason in one line.

        raises ValueError if the config has an absolute path or a secret
        """
        if portable(self.config) != self.config:
            raise ValueError("config has an absolute path or a secret; hint: take portable(config), and hash that")
        content = self.model_dump()
        if self.reason is not None:
            content["reason"] = " ".join(self.reason.split())
        # text of the data set may look like a path
        content = {k: v if k in ("examples", "kernels") else portable(v) for k, v in content.items()}
        return layout({"schema": SCHEMA, **content}, lists=("curve", "examples", "kernels"), trees=("config",))

    def write(self, path: Path) -> None:
        """Write the file atomically, after checking that it can be read."""
        text = self.text()
        parse(text, where=str(path))
        atomic_write(path, text, hint="results=/some/dir")


# classes that have moved since the first records: recorded name -> today's
MOVED = {"lra.backbone.Classifier": "lra.nn.classifier.Classifier"}


def renamed(node: Any, names: Mapping[str, str]) -> Any:
    """A config with class names (`_target_`) replaced."""
    if isinstance(node, Mapping):
        return {
            k: names.get(v, v) if k == "_target_" and isinstance(v, str) else renamed(v, names) for k, v in node.items()
        }
    return [renamed(value, names) for value in node] if isinstance(node, list) else node


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a resolved config as 64 hexadecimal digits.

    The order of keys does not matter, nor whether a moved class has its recorded or its current name.

    raises ValueError if the config is not JSON (a NaN, an infinity, a key that is not a string)
    """
    require_json(config, "config")
    config = renamed(config, {new: old for old, new in MOVED.items()})
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def record_path(root: Path, *, scale: str, model: str, task: str, seed: int, variant: Sequence[str] = ()) -> Path:
    """<root>/<scale>/<model>/<task>/<seed>.json; a variant adds eight digits of its hash: <seed>-<hash8>.json.

    The hash does not depend on the order of the overrides.
    """
    suffix = "-" + hashlib.sha256("\n".join(sorted(variant)).encode()).hexdigest()[:8] if variant else ""
    return Path(root) / scale / model / task / f"{seed}{suffix}.json"


def parse(text: str, where: str) -> Record:
    """A record from JSON text; `where` names the file in the one-line ValueError."""
    try:
        content = migrate(decode(text))
        for name in Record.model_fields:
            if name not in content:
                raise ValueError(f"{name} is missing")
        return check(content, Record, "")
    except RecursionError:
        raise ValueError(f"{where}: nested too deeply to be a record") from None
    except ValueError as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from None
