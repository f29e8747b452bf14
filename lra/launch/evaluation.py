"""Test the weights of a finished run again and compare with its record."""

import importlib
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn

from lra import hub
from lra.config.schema import Data
from lra.errors import UserError
from lra.io.strict_json import StrictModel
from lra.nn.generation import scores_of
from lra.objectives.objective import objective_of
from lra.paths import ROOT
from lra.records import environment
from lra.records.code import code_fingerprint
from lra.records.record import MOVED, Git, Hardware, Record, config_hash, renamed
from lra.records.store import load
from lra.task import Batch, TaskSpec
from lra.training import weights
from lra.training.learner import Learner
from lra.training.trainer import ensure_available, silence_libraries
from models import __name__ as MODELS

CLASS = re.compile(r"((?:models|data|lra)(?:\.[a-z_0-9]+)+)\.([A-Za-z_0-9]+)")
# "lra." where a wheel is installed, which has `models` and `data` there
PREFIX = MODELS.removesuffix("models")


class Evaluation(StrictModel):
    """Settings of configs/evaluate.yaml."""

    checkpoint: str
    record: str | None
    length: int | None
    rate: float | None
    carry: bool
    results: str | None
    data: Data
    accelerator: str


def check_trusted(node: Any, where: str) -> None:
    """ValueError if a recorded configuration would call anything but a class of this repository."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_" and not is_own_class(value):
                raise ValueError(f"{where}._target_ is {value!r}: not a class of models/, data/ or lra/; not loaded")
            if str(key).startswith("_") and key not in ("_target_", "_partial_"):
                raise ValueError(f"{where}.{key}: not part of a model or a task; not loaded")
            check_trusted(value, f"{where}.{key}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            check_trusted(value, f"{where}[{i}]")
    elif isinstance(node, str) and "${" in node:
        raise ValueError(f"{where} is {node!r}: a recorded configuration is resolved; not loaded")


def targets(node: Any) -> set[str]:
    """All class names (`_target_`) of a config."""
    if isinstance(node, list):
        return set().union(*map(targets, node))
    if not isinstance(node, dict):
        return set()
    name = node.get("_target_")
    return set().union(*map(targets, node.values())) | ({name} if isinstance(name, str) else set())


def is_own_class(name: Any) -> bool:
    """Whether this is the full name of a class defined in a file of this repository."""
    found = CLASS.fullmatch(name) if isinstance(name, str) else None
    if found is None or not (ROOT / (found[1].replace(".", "/") + ".py")).is_file():
        return False
    known = getattr(importlib.import_module(found[1]), found[2], None)
    return isinstance(known, type) and known.__module__ == found[1]


def build(record: Record, where: str, **data: str) -> tuple[Any, Any]:
    """The data module and the untrained model of a record's configuration.

    data    root and source
    raises  ValueError, one line, if the configuration is not one, or names anything that is not trusted
    """
    names = MOVED | {name: PREFIX + name for name in targets(record.config) if not name.startswith("lra.")}
    config = renamed(record.config, names)
    for section in ("task", "model"):
        if not isinstance(config.get(section), dict):
            raise ValueError(f"{where}: the record's config has no section {section}")
        check_trusted(config[section], section)
    try:
        module = instantiate(config["task"], **data)
        return module, instantiate(config["model"], spec=module.spec)
    except InstantiationException as error:
        raise ValueError(f"{where}: {error.__cause__ or error}") from None


def set_length(config: dict[str, Any], length: int) -> int | None:
    """Give the task another length, in place; returns the recorded one (None: the benchmark's).

    raises  ValueError if the task has no length to choose, or the length is not positive
    """
    if not isinstance(config.get("task"), dict) or "max_len" not in config["task"]:
        raise ValueError(f"length={length}: the inputs of this task have the length of its pictures")
    if length < 1:
        raise UserError(f"length={length}: not a number of positions", hint="length=4096")
    before: int | None = config["task"]["max_len"]
    config["task"]["max_len"] = length
    return before


def check_rate(rate: float, spec: TaskSpec) -> None:
    """UserError if inputs of this task cannot be sampled again at this rate."""
    if not 0 < rate <= 1:
        raise UserError(f"rate={rate:g}: not in (0, 1]", hint="rate=0.5")
    if spec.vocab_size is not None or spec.categories or spec.horizon:
        raise UserError(f"rate={rate:g}: the input of {spec.name} is no signal", hint="a task such as sc10 or smnist")


def prepare_layers(net: Any, length: int, rate: float = 1.0) -> None:
    """Adapt every layer trained for one length (S4's C, a softmax DSS) or sampling rate to that of the inputs."""
    for module in net.modules():
        if hasattr(module, "prepare"):
            module.prepare(length, rate=rate)


class ResamplingLearner(Learner):
    """Tests on inputs sampled at `rate` times their rate, by band-limited interpolation (torchaudio)."""

    def __init__(self, *arguments: Any, rate: float, **others: Any):
        super().__init__(*arguments, **others)
        self.ratio = Fraction(rate).limit_denominator(1000)

    def forward(self, batch: Batch) -> Tensor:
        from torchaudio.functional import resample

        waves = batch.x.transpose(1, 2)
        x = resample(waves, self.ratio.denominator, self.ratio.numerator).transpose(1, 2)
        return self.model(x, batch.mask[:, : x.shape[1]])


class CarryingLearner(Learner):
    """Tests windows of a text in their order, each with the state that the one before has left."""

    state: Any = None

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self.model.setup_step()  # type: ignore[operator]
        self.state = None

    def forward(self, batch: Batch) -> Tensor:
        rows = []
        for x, mask in zip(batch.x.split(1), batch.mask.split(1), strict=True):
            try:
                outputs, self.state = self.model.prefill(x, mask, self.state)  # type: ignore[operator]
            except ValueError as error:  # past the positions that the model knows
                raise UserError(f"carry=true: {error}", hint="a state-space model") from None
            rows.append(scores_of(outputs))
        return torch.cat(rows)


def check_carry(module: Any, net: Any) -> None:
    """UserError if no state can be carried from one input to the next."""
    if module.spec.objective != "language":
        raise UserError(f"carry=true: the inputs of {module.spec.name} do not follow one another", hint="carry=false")
    if (n := module.requested["test"]) is not None:
        raise UserError(f"carry=true: task.n_test={n} drew windows that do not follow one another", hint="carry=false")
    if reason := net.no_steps():
        raise UserError(f"carry=true: {reason}")


def rate_record(record: Record, rate: float, test: dict[str, Any]) -> Record:
    """The record of a test at another sampling rate: that of the training with its own task, result and command.

    The command names the folder in which the training's command leaves its weights.
    """
    folder = f"runs/{record.scale}/{record.task}/{record.model}/{record.seed}-{record.config_hash[:8]}"
    config = record.config | {"evaluation": {"rate": rate}}
    return record.model_copy(
        update={
            "task": f"{record.task}-{rate:g}x",
            "config": config,
            "config_hash": config_hash(config),
            "command": f"python scripts/evaluate.py checkpoint={folder} rate={rate:g}",
            "git": environment.git(),
            "code": code_fingerprint(record.config),
            "versions": environment.versions(),
            "test_score": test["score"],
            "test_totals": test["totals"],
            "curve": [],
            "examples": [],
            "kernels": [],
            "notes": [*record.notes, f"weights trained at the full sampling rate, tested at {rate:g} of it"],
            "finished": environment.now(),
        }
    )


def differences(record: Record, module: Any, hardware: Hardware) -> list[str]:
    """What differs from the time of the record and might change the result."""
    data, git, versions = record.data, environment.git(), environment.versions()
    pairs = {
        "data": (f"{data.kind} {data.fingerprint[:12]}", f"{module.kind} {module.fingerprint[:12]}"),
        "commit": (commit_name(record.git), commit_name(git)),
        **{name: (record.versions.get(name), versions.get(name)) for name in sorted({*record.versions, *versions})},
        **{
            name: (getattr(record.hardware, name), getattr(hardware, name))
            for name in ("device", "processor", "threads")
        },
    }
    if record.code is not None:
        code = code_fingerprint(record.config)
        pairs["code of the model"] = record.code.model, code.model
        pairs["code of the framework"] = record.code.framework, code.framework
    return [f"{name}: {then or 'none'}, now {now or 'none'}" for name, (then, now) in pairs.items() if then != now]


def commit_name(git: Git) -> str:
    return f"{(git.commit or 'none')[:10]}{' with changes' if git.dirty else ''}"


def read(checkpoint: str, record: str | None = None) -> tuple[Path, dict[str, Tensor], Record]:
    """File, weights and record of a run's folder, of its file, or of hf://user/name.

    record  file of the record, for weights without one
    """
    path = weights.file_of(hub.located(checkpoint))
    values, found = weights.load(path)
    if record is not None:
        found = load(Path(record))
    if found is None:
        raise UserError(f"{path}: weights without a record", hint="record=results/runs/....json")
    return path, values, found


def load_model(checkpoint: str, **data: str) -> tuple[nn.Module, Any, Record]:
    """The trained model, in evaluation mode, its task's data module, and the record of its run.

    checkpoint  a run's folder, its model.safetensors, or hf://user/name[@revision]
    data        root and source of the data module; nothing is read until its prepare_data()
    raises      UserError, one line
    """
    path, values, record = read(checkpoint)
    module, net = build(record, str(path), **data)
    weights.fill(net, values, str(path))
    return net.eval(), module, record


def evaluate(options: Evaluation) -> int:
    """Test the weights and print the result; returns the exit status: 0 as recorded, 1 different."""
    path, values, record = read(options.checkpoint, options.record)
    if record.test_totals is None:
        raise ValueError(f"{path}: the record says {record.status} and has no test result to compare with")
    changes_input = {"rate": options.rate, "length": options.length, "carry": options.carry or None}
    if len(given := [f"{name}={value}" for name, value in changes_input.items() if value is not None]) > 1:
        raise UserError(f"{' '.join(given)}: one at a time", hint="leave out the others")
    trained_at = set_length(record.config, options.length) if options.length is not None else None
    module, net = build(record, str(path), root=options.data.root, source=options.data.source)
    silence_libraries()
    ensure_available(options.accelerator, "accelerator")
    try:
        weights.fill(net, values, str(path))
    except UserError as error:
        if options.length is None:
            raise
        reason = str(error).partition("; hint:")[0]
        raise UserError(
            f"length={options.length}: {reason}", hint="leave length= out: the parameters of this model depend on it"
        ) from None
    rate = options.rate
    if rate is not None:
        check_rate(rate, module.spec)
        prepare_layers(net, math.ceil(module.spec.max_len * rate), rate)
    elif options.length is not None:
        prepare_layers(net, net.embedding.max_len)
    if options.carry:
        check_carry(module, net)
    module.prepare_data()
    module.setup()
    if options.results is not None and (module.kind, module.fingerprint) != (record.data.kind, record.data.fingerprint):
        problem = f"results={options.results}: {module.kind} data {module.fingerprint[:12]} is not that of the training"
        raise UserError(problem, hint="data.source= and data.root= of the training")
    trainer = pl.Trainer(
        accelerator=options.accelerator,
        devices=1,
        precision=record.precision,  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    changes = differences(record, module, environment.hardware(trainer.strategy.root_device))
    print(f"{record.title} on {record.task}, seed {record.seed}, scale {record.scale}: {path}")
    for line in changes:
        print(f"  differs: {line}")
    objective = objective_of(record.objective)
    about: dict[str, Any] = {"optimizer": {}, "objective": objective}
    learner = Learner(net, **about) if rate is None else ResamplingLearner(net, **about, rate=rate)
    if options.carry:
        learner = CarryingLearner(net, **about)
    trainer.test(learner, datamodule=module, verbose=False)
    test = learner.results["test"]["totals"]
    if rate is not None:
        full = objective.result(record.test_totals)
        print(f"test {objective.result(test)} at {rate:g} of the sampling rate; recorded was {full}")
        if options.results is not None:
            made = rate_record(record, rate, learner.results["test"])
            made.write(made.path(Path(options.results)))
            print(f"record: {made.path(Path(options.results))}")
        return 0
    if options.carry:
        found, recorded = objective.result(test), objective.result(record.test_totals)
        print(f"test {found} with the state of the text before; recorded was {recorded} without")
        return 0
    if options.length is not None:
        found, recorded = objective.result(test), objective.result(record.test_totals)
        before = trained_at or "the length of the benchmark"
        print(f"test {found} at up to {options.length} positions; recorded was {recorded} at {before}")
        return 0
    return verdict(record, test, bool(changes))


def verdict(record: Record, totals: dict[str, float], changed: bool) -> int:
    """Print the comparison with the record; returns the exit status."""
    objective = objective_of(record.objective)
    found, recorded = objective.result(totals), objective.result(record.test_totals or totals)
    if totals == record.test_totals:
        print(f"test {found}: as recorded")
        return 0
    reason = "see the differences above" if changed else "no difference is known"
    print(f"test {found}: recorded was {recorded}; {reason}")
    return 1
