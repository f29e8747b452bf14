"""Test the weights of a finished run again and compare with its record."""

import difflib
import importlib
import re
from pathlib import Path
from typing import Any

from lra.paths import ROOT
from lra.records.record import MOVED, renamed

CLASS = re.compile(r"((?:models|data|lra)(?:\.[a-z_0-9]+)+)\.([A-Za-z_0-9]+)")


def trusted(node: Any, where: str) -> None:
    """raises ValueError if a configuration names anything to call that is no class of this repository."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_":
                if not is_class(value):
                    raise ValueError(
                        f"{where}._target_ is {value!r}: not a class of models/, data/ or lra/; not loaded"
                    )
            elif str(key).startswith("_") and key != "_partial_":
                raise ValueError(f"{where}.{key}: not part of a model or a task; not loaded")
            trusted(value, f"{where}.{key}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            trusted(value, f"{where}[{i}]")
    elif isinstance(node, str) and "${" in node:
        raise ValueError(f"{where} is {node!r}: a recorded configuration is resolved; not loaded")


def is_class(name: Any) -> bool:
    """Is it the full name of a class defined in one of our files?"""
    found = CLASS.fullmatch(name) if isinstance(name, str) else None
    if found is None or not (ROOT / (found[1].replace(".", "/") + ".py")).is_file():
        return False
    known = getattr(importlib.import_module(found[1]), found[2], None)
    return isinstance(known, type) and known.__module__ == found[1]


def build(record: Any, where: str, **data: str) -> tuple[Any, Any]:
    """The data module and the model, untrained, that a record's configuration names.

    data    root and source
    raises  ValueError, one line, if it is no configuration, or names something else
    """
    config = renamed(record.config, MOVED)
    for section in ("task", "model"):
        if not isinstance(config.get(section), dict):
            raise ValueError(f"{where}: the record's config has no section {section}")
        trusted(config[section], section)
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        module = instantiate(config["task"], **data)
        return module, instantiate(config["model"], spec=module.spec)
    except InstantiationException as error:
        raise ValueError(f"{where}: {error.__cause__ or error}") from None


def relength(config: dict[str, Any], length: str) -> int | None:
    """Gives the task another length, in place, and returns the recorded one (None: the benchmark's own).

    raises  ValueError where the task has none to choose, or the length is no number
    """
    if not isinstance(config.get("task"), dict) or "max_len" not in config["task"]:
        raise ValueError(f"length={length}: the inputs of this task have the length of its pictures")
    if not length.isdecimal() or not int(length):
        raise ValueError(f"length={length}: not a number of positions, such as 4096")
    before: int | None = config["task"]["max_len"]
    config["task"]["max_len"] = int(length)
    return before


def refit(net: Any) -> None:
    """Fits every layer that was trained for one length (S4's C, a softmax DSS) to that of the model's inputs."""
    for module in net.modules():
        if hasattr(module, "prepare"):
            module.prepare(net.embedding.max_len)


def differences(record: Any, module: Any, hardware: Any) -> list[str]:
    """What is not as it was when the record was made, and might change the number."""
    from lra.records import environment

    now, said = environment.versions(), []
    if record.data.fingerprint != module.fingerprint:
        said.append(
            f"data: {record.data.kind} {record.data.fingerprint[:12]}, now {module.kind} {module.fingerprint[:12]}"
        )
    git = environment.git()
    if (record.git.commit, record.git.dirty) != (git.commit, git.dirty):
        said.append(f"commit: {name_of(record.git)}, now {name_of(git)}")
    for name in sorted({*record.versions, *now}):
        then, today = record.versions.get(name, "none"), now.get(name, "none")
        if then != today:
            said.append(f"{name}: {then}, now {today}")
    for name in ("device", "processor", "threads"):
        then, today = getattr(record.hardware, name), getattr(hardware, name)
        if then != today:
            said.append(f"{name}: {then}, now {today}")
    return said


def name_of(git: Any) -> str:
    return f"{(git.commit or 'none')[:10]}{' with changes' if git.dirty else ''}"


def weights_file(given: Path) -> Path:
    """The file of weights of a run's folder, or the file itself.

    raises  ValueError, one line that names the nearest finished runs, if there is none
    """
    path = given / "model.safetensors" if given.is_dir() else given
    if path.is_file():
        return path
    if (given / "last.ckpt").is_file():
        raise ValueError(f"{given}: this run has not ended; give its command again, and it goes on")
    finished = sorted(str(found.parent) for found in Path("runs").rglob("model.safetensors"))
    near = difflib.get_close_matches(str(given), finished, n=3, cutoff=0.0)
    cure = f"finished and nearest by name: {', '.join(near)}" if near else "no run under runs/ has ended"
    raise ValueError(f"{given}: no finished run, and no file of weights; {cure}")


def evaluate(path: Path, chosen: dict[str, str]) -> int:
    from lra.records.store import load
    from lra.training import weights

    values, record = weights.load(path)
    if chosen["record"]:
        record = load(Path(chosen["record"]))
    if record is None:
        raise ValueError(f"{path}: weights without a record; give the record with record=results/runs/....json")
    if record.test_correct is None:
        raise ValueError(f"{path}: the record says {record.status} and has no test accuracy to compare with")
    trained_at = relength(record.config, chosen["length"]) if chosen["length"] else None
    module, net = build(record, str(path), root=chosen["data.root"], source=chosen["data.source"])

    import pytorch_lightning as pl

    from lra.records import environment
    from lra.training.learner import Learner
    from lra.training.trainer import ensure_available, silence_libraries

    silence_libraries()
    ensure_available(chosen["accelerator"], "accelerator")
    weights.fill(net, values, str(path))
    if chosen["length"]:
        refit(net)
    module.prepare_data()
    module.setup()
    trainer = pl.Trainer(
        accelerator=chosen["accelerator"],
        devices=1,
        precision=record.precision,  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    hardware = environment.hardware(trainer.strategy.root_device)
    said = differences(record, module, hardware)
    print(f"{record.title} on {record.task}, seed {record.seed}, scale {record.scale}: {path}")
    for line in said:
        print(f"  differs: {line}")
    learner = Learner(net, optimizer={})
    trainer.test(learner, datamodule=module, verbose=False)
    test = learner.results["test"]
    if chosen["length"]:
        found, recorded = accuracy(test["correct"], test["examples"]), accuracy(record.test_correct, record.n_test)
        before = trained_at or "the length of the benchmark"
        print(f"{found} at up to {chosen['length']} positions; recorded was {recorded} at {before}")
        return 0
    return verdict(record, test["correct"], test["examples"], bool(said))


def accuracy(correct: int, n: int) -> str:
    return f"test accuracy {100 * correct / n:.2f} % ({correct} of {n})"


def verdict(record: Any, correct: int, n: int, apart: bool) -> int:
    found = accuracy(correct, n)
    if (correct, n) == (record.test_correct, record.n_test):
        print(f"{found}: as recorded")
        return 0
    recorded = f"{100 * record.test_accuracy:.2f} % ({record.test_correct} of {record.n_test})"
    why = "see the differences above" if apart else "with nothing different that is known"
    print(f"{found}: recorded was {recorded}; {why}")
    return 1
