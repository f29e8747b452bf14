"""Prepared data as a folder that Hugging Face's `datasets.load_from_disk` reads: splits train, validation and test.

One column of inputs, as a model sees them, without padding; two of paired documents; then the label or target:

    input_ids                         tokens: truncated to max_len, with the end token where the task has one
    input_ids_1, input_ids_2          of paired documents
    stored                            pictures and sound as whole numbers, (L,) or (L, channels); the description of
                                      the data set has a and b of the values a * stored + b
    values                            (L, columns) real values
    label, or target                  class; or values of each position of the horizon, or whole numbers
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from data.datamodule import TaskData
from data.loader import Loader
from data.prepared import DataError, disk_errors

if TYPE_CHECKING:
    import datasets

SPLITS = {"train": "train", "val": "validation", "test": "test"}
ROWS = 256  # examples read at once


def export(task: TaskData, folder: Path) -> dict[str, int]:
    """Write the prepared data of a task to a new folder, complete or not at all; returns the number of rows by split.

    raises  DataError if the folder exists
    """
    import datasets

    if folder.exists():
        raise DataError(f"{folder}: exists already", hint="--to another folder")
    work = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    datasets.disable_progress_bars()
    about: dict[str, Any] = {"features": features(task), "cache_dir": str(work / "cache")}
    try:
        with disk_errors(folder):
            splits = datasets.DatasetDict()
            for name, split in SPLITS.items():
                given = {"gen_kwargs": {"task": task, "name": name}, "fingerprint": f"{task.fingerprint[:32]}-{split}"}
                splits[split] = datasets.Dataset.from_generator(rows, split=split, **given, **about)
                splits[split].info.description = description(task)
            splits.save_to_disk(work / "done")
            (work / "done").replace(folder)
    finally:
        datasets.enable_progress_bars()
        shutil.rmtree(work, ignore_errors=True)
    return {split: len(data) for split, data in splits.items()}


def column(task: TaskData) -> str:
    """Name of the column of inputs."""
    if task.opened.examples.x.is_floating_point():
        return "values"
    return "input_ids" if task.opened.examples.affine is None else "stored"


def columns(task: TaskData) -> list[str]:
    return [f"{column(task)}_{i}" for i in (1, 2)] if task.spec.paired else [column(task)]


def features(task: TaskData) -> "datasets.Features":
    """Types of the columns."""
    from datasets import ClassLabel, Features, List, Value

    first = next(rows(task, "test"))
    found: dict[str, Any] = {}
    for name in columns(task):
        found[name] = Value(str(first[name].dtype))
        for _ in first[name].shape:
            found[name] = List(found[name])
    if task.spec.objective == "classification":
        return Features(found | {"label": ClassLabel(num_classes=task.spec.n_outputs)})
    found["target"] = Value(str(first["target"].dtype))
    for _ in first["target"].shape:
        found["target"] = List(found["target"])
    return Features(found)


def rows(task: TaskData, name: str) -> Iterator[dict[str, Any]]:
    """The examples of a split, in the stored order, as arrays."""
    stored = task.opened.examples
    examples = dataclasses.replace(stored, affine=None)  # whole numbers stay whole
    answer = "label" if task.spec.objective == "classification" else "target"
    for batch in Loader(examples, task.opened.index[name], ROWS, shuffle=False):
        x = batch.x.to(torch.int32 if task.spec.causal else stored.x.dtype)  # inputs of next tokens are 1 more
        for i, y in enumerate(batch.y):
            documents = (i, i + len(batch.y)) if task.spec.paired else (i,)
            inputs = [x[j, batch.mask[j]].squeeze(-1).numpy() for j in documents]
            yield dict(zip(columns(task), inputs, strict=True)) | {answer: y.numpy()}


def description(task: TaskData) -> str:
    """Where the data is from, its fingerprint, the characters of tokens, and how stored numbers become values."""
    lines = [f"{task.name}, {task.kind}", *task.notes, f"fingerprint {task.fingerprint}"]
    if (vocabulary := task.opened.manifest.get("vocabulary")) is not None:
        lines.append(f"vocabulary {json.dumps(vocabulary)}")
    if column(task) == "stored":
        a, b = (torch.tensor(number).tolist() for number in task.opened.examples.affine or ())
        lines.append(f"value = a * stored + b with a = {a}, b = {b}")
    return "\n".join(lines)
