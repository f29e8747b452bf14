"""Is the prepared data of a task what it says it is? And what does it look like, in figures?"""

import hashlib
from collections.abc import Callable

import numpy as np

from data import prepared
from data.datamodule import TaskData
from data.prepared import DataError
from lra.console import progress_bar


def verify(task: TaskData) -> list[str]:
    """Recompute the hashes and check the content; returns what was found, a line each.

    raises  DataError that names the first bad file or example
    """
    task.setup()
    folder = task.folder(task.opened.manifest["edition"])
    manifest = prepared.read_manifest(folder)
    total = sum(file["bytes"] for file in manifest["files"].values())
    with progress_bar("hashing", total, in_bytes=True) as advance:
        prepared.check_hashes(folder, advance)
    check_arrays(task)
    said = [f"{folder}: {len(manifest['files'])} arrays, {total:,} bytes, every SHA-256 as recorded"]
    with progress_bar("comparing examples", sum(task.counts.values())) as advance:
        said.append(check_duplicates(task, advance))
    said += check_labels(task)
    with progress_bar("checking examples", len(task.opened.pool.y)) as advance:
        task.check(advance)
    return [*said, f"{task.name}: kind {task.kind}, counts {task.counts}, fingerprint {task.fingerprint}", *task.notes]


def check_arrays(task: TaskData) -> None:
    """Everything that points somewhere points inside, every token is in the vocabulary, no document is empty."""
    pool, spec, name = task.opened.pool, task.spec, task.name
    if int(pool.y.min()) < 0 or int(pool.y.max()) >= spec.n_classes:
        bad = int(((pool.y < 0) | (pool.y >= spec.n_classes)).int().argmax())
        raise DataError(f"{name}: example {bad} has label {int(pool.y[bad])}, there are {spec.n_classes} classes")
    if spec.vocab_size is not None and int(pool.x.max()) >= spec.vocab_size:
        raise DataError(f"{name}: token {int(pool.x.max())} occurs, the vocabulary has {spec.vocab_size}")
    if pool.starts is None or pool.stored is None:
        if tuple(pool.x.shape) != (len(pool.y), spec.max_len):
            raise DataError(f"{name}: pixels of shape {tuple(pool.x.shape)}, expected ({len(pool.y)}, {spec.max_len})")
        return
    if int(pool.stored.min()) < 1:
        raise DataError(f"{name}: document {int((pool.stored < 1).int().argmax())} is empty")
    if int(pool.starts[0]) != 0 or int(pool.starts[-1] + pool.stored[-1]) != len(pool.x):
        raise DataError(f"{name}: the offsets do not end where the tokens do")
    documents = len(pool.starts)
    if pool.pairs is None and documents != len(pool.y):
        raise DataError(f"{name}: {documents} documents, {len(pool.y)} labels")
    if pool.pairs is not None and not 0 <= int(pool.pairs.min()) <= int(pool.pairs.max()) < documents:
        raise DataError(f"{name}: a pair points past {documents} documents")


def check_duplicates(task: TaskData, advance: Callable[[int], object]) -> str:
    """Count examples that occur in two splits; an error where the task promises there is none."""
    pool = task.opened.pool
    x = pool.x.numpy()

    def key(row: int) -> bytes:
        if pool.pairs is not None:
            return pool.pairs[row].numpy().tobytes()
        if pool.starts is None or pool.stored is None:
            return hashlib.blake2b(x[row].tobytes(), digest_size=16).digest()
        begin = int(pool.starts[row])
        return hashlib.blake2b(x[begin : begin + int(pool.stored[row])].tobytes(), digest_size=16).digest()

    seen: dict[bytes, tuple[str, int]] = {}
    twice = 0
    for split, rows in task.opened.index.items():
        if split == "val" and task.selection_on_test:
            continue
        for row in rows.tolist():
            first = seen.setdefault(key(row), (split, row))
            if first[0] != split:
                twice += 1
                if task.distinct and task.kind == "generated":
                    raise DataError(f"{task.name}: example {row} of {split} is example {first[1]} of {first[0]}")
            advance(1)
    return f"{task.name}: {twice} examples occur in two splits"


def check_labels(task: TaskData) -> list[str]:
    """Shares of the labels of each split; an error if a large split lacks one."""
    said = []
    for split, rows in task.opened.index.items():
        counts = np.bincount(task.opened.pool.y.numpy()[rows], minlength=task.spec.n_classes)
        if not counts.all() and len(rows) >= 100 * task.spec.n_classes:
            raise DataError(f"{task.name}: label {int(counts.argmin())} does not occur in {len(rows)} {split} examples")
        said.append(f"{task.name} {split}: labels {shares(counts)}")
    return said


def shares(counts: np.ndarray) -> str:
    return " ".join(f"{100 * n / counts.sum():.1f}%" for n in counts)


def statistics(task: TaskData) -> dict[str, str]:
    """Figures to set side by side with those of the same task from another source."""
    pool, rows = task.opened.pool, np.concatenate(list(task.opened.index.values()))
    figures = {
        "kind": task.kind,
        "source": task.opened.manifest["source"],
        "examples": " / ".join(str(n) for n in task.counts.values()),
        "labels": shares(np.bincount(pool.y.numpy()[rows], minlength=task.spec.n_classes)),
    }
    if pool.stored is not None:
        lengths = pool.stored.numpy()
        percentiles = " / ".join(f"{p:.0f}" for p in np.percentile(lengths, [5, 50, 95]))
        figures["length, mean"] = f"{lengths.mean():.0f}"
        figures["length, 5 / 50 / 95 %"] = percentiles
        figures["length, least and most"] = f"{lengths.min()} to {lengths.max()}"
        figures["cut at max_len"] = f"{100 * (lengths > task.spec.max_len - (pool.eos is not None)).mean():.1f}%"
    else:
        some = pool.x[:20_000].numpy()
        figures["grey, mean"] = f"{some.mean():.1f}"
        figures["grey, deviation"] = f"{some.std():.1f}"
        figures["pixels not black"] = f"{100 * (some > 0).mean():.1f}%"
    return figures | task.figures()
