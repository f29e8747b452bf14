"""Check the prepared data of a task, and describe it in numbers."""

from collections.abc import Callable

import numpy as np

from data import prepared
from data.datamodule import TaskData
from data.duplicates import equal_examples, in_words
from data.prepared import DataError
from lra.console import progress_bar


def verify(task: TaskData) -> list[str]:
    """Recompute the hashes and check the content; returns one line per finding.

    raises  DataError for the first bad file or example
    """
    task.setup()
    folder, files = task.prepared_folder, task.opened.manifest["files"]
    total = sum(file["bytes"] for file in files.values())
    with progress_bar("hashing", total, in_bytes=True) as advance:
        prepared.check_hashes(folder, advance)
    check_arrays(task)
    lines = [f"{folder}: {len(files)} arrays, {total:,} bytes, every SHA-256 as recorded"]
    with progress_bar("comparing examples", sum(task.counts.values())) as advance:
        lines.append(check_duplicates(task, advance))
    lines += check_labels(task)
    with progress_bar("checking examples", len(task.opened.examples.y)) as advance:
        task.check(advance)
    return [*lines, f"{task.name}: kind {task.kind}, counts {task.counts}, fingerprint {task.fingerprint}", *task.notes]


def check_arrays(task: TaskData) -> None:
    """Labels, tokens, offsets and pairs are in range, and no document is empty."""
    examples, spec, name = task.opened.examples, task.spec, task.name
    if spec.objective == "regression":
        if not examples.x.isfinite().all():
            raise DataError(f"{name}: a value of the series is not finite")
        return
    if spec.causal:
        if not 0 <= int(examples.x.min()) <= int(examples.x.max()) < spec.n_outputs:
            raise DataError(f"{name}: token {int(examples.x.max())} occurs, there are {spec.n_outputs}")
        return
    bad = (examples.y < 0) | (examples.y >= spec.n_outputs)
    if bad.any():
        i = int(bad.int().argmax())
        raise DataError(f"{name}: example {i} has label {int(examples.y[i])}, there are {spec.n_outputs} classes")
    if spec.vocab_size is not None and int(examples.x.max()) >= spec.vocab_size:
        raise DataError(f"{name}: token {int(examples.x.max())} occurs, the vocabulary has {spec.vocab_size}")
    if examples.offsets is None:
        shape, expected = tuple(examples.x.shape[:2]), (len(examples.y), spec.max_len)
        if shape != expected:
            raise DataError(f"{name}: pixels of shape {shape}, expected {expected}")
        return
    lengths = examples.offsets.diff()
    if int(lengths.min()) < 1:
        raise DataError(f"{name}: document {int((lengths < 1).int().argmax())} is empty")
    if (int(examples.offsets[0]), int(examples.offsets[-1])) != (0, len(examples.x)):
        raise DataError(f"{name}: the offsets do not end where the tokens do")
    documents = len(lengths)
    if examples.pairs is None and documents != len(examples.y):
        raise DataError(f"{name}: {documents} documents, {len(examples.y)} labels")
    if examples.pairs is not None and not 0 <= int(examples.pairs.min()) <= int(examples.pairs.max()) < documents:
        raise DataError(f"{name}: a pair refers to a document that is not one of the {documents}")


def check_duplicates(task: TaskData, advance: Callable[[int], object]) -> str:
    """Count examples that occur in two splits; raises DataError if the task promises none."""
    refuse = task.name if task.distinct and task.kind == "generated" else None
    index = task.compared_splits
    found = equal_examples(task.opened.examples, index, advance=advance, refuse=refuse)
    return f"{task.name}: {in_words(found, index)}"


def check_labels(task: TaskData) -> list[str]:
    """Shares of the labels in each split; raises DataError if a large split lacks one."""
    lines: list[str] = []
    for split, rows in task.opened.index.items() if task.spec.objective == "classification" else ():
        counts = np.bincount(task.opened.examples.y.numpy()[rows], minlength=task.spec.n_outputs)
        if not counts.all() and len(rows) >= 100 * task.spec.n_outputs:
            raise DataError(f"{task.name}: label {int(counts.argmin())} does not occur in {len(rows)} {split} examples")
        lines.append(f"{task.name} {split}: labels {shares(counts)}")
    return lines


def shares(counts: np.ndarray) -> str:
    return " ".join(f"{100 * n / counts.sum():.1f}%" for n in counts)


def statistics(task: TaskData) -> dict[str, str]:
    """Numbers to compare with those of the same task from another source."""
    examples, rows = task.opened.examples, np.concatenate(list(task.opened.index.values()))
    numbers = {
        "kind": task.kind,
        "source": task.opened.manifest["source"],
        "examples": " / ".join(str(n) for n in task.counts.values()),
    }
    if task.spec.objective != "classification":
        return numbers | task.statistics()
    numbers["labels"] = shares(np.bincount(examples.y.numpy()[rows], minlength=task.spec.n_outputs))
    if examples.offsets is not None:
        lengths = examples.offsets.diff().numpy()
        numbers["length, mean"] = f"{lengths.mean():.0f}"
        numbers["length, 5 / 50 / 95 %"] = " / ".join(f"{p:.0f}" for p in np.percentile(lengths, [5, 50, 95]))
        numbers["length, least and most"] = f"{lengths.min()} to {lengths.max()}"
        numbers["cut at max_len"] = f"{100 * (lengths > task.spec.max_len - (task.eos is not None)).mean():.1f}%"
    elif task.spec.vocab_size is not None and task.pixels(int(rows[0])) is None:
        numbers["length"] = f"{examples.x.shape[1]}"
    else:
        some = examples.x[:20_000].numpy()
        what = "values" if task.pixels(int(rows[0])) is None else "grey"
        numbers[f"{what}, mean"] = f"{some.mean():.1f}"
        numbers[f"{what}, deviation"] = f"{some.std():.1f}"
        if what == "grey":
            numbers["pixels not black"] = f"{100 * (some > 0).mean():.1f}%"
    return numbers | task.statistics()
