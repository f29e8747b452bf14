"""Runs of scripts/train.py in separate processes and folders, and their comparison."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from helpers.processes import Process
from helpers.records import replace
from lra.records.record import Git, Record
from lra.records.store import load

STEPS = 60  # 16 batches an epoch: most kills happen in the middle of one
CELL = ["task=listops", "scale=smoke", f"training.steps={STEPS}", "training.validations=6", "wandb.mode=disabled"]


class Run:
    """A run in its own folders, which may be started several times, with `world` processes."""

    def __init__(self, place: Path, start, *words: str, data: Path, world: int = 1):
        self.place, self.start, self.world = place, start, world
        self.place.mkdir()
        folders = [f"results={place}/results", f"runs={place}/runs", f"data.root={data}"]
        # dropout makes the result depend on the random state
        self.words = [*CELL, "model.dropout=0.1", "trainer.checkpoint_seconds=0", *words, *folders]

    def process(self, **limits) -> Process:
        return self.start(self.words, self.place / "log", world=self.world, **limits)

    def folder(self) -> Path | None:
        return next((p.parent for p in (self.place / "runs").rglob("pid")), None)

    def checkpoint(self) -> int:
        """Time of the last checkpoint in nanoseconds; 0 if there is none."""
        folder = self.folder()
        try:
            return (folder / "last.ckpt").stat().st_mtime_ns if folder else 0
        except FileNotFoundError:
            return 0

    def saved_since(self, moment: int) -> Callable[[], bool]:
        return lambda: self.checkpoint() > moment

    def saving(self) -> bool:
        """Whether a checkpoint is being written, or was when the process died."""
        folder = self.folder()
        return folder is not None and (folder / "next.ckpt.tmp").exists()

    def output(self) -> str:
        return (self.place / "log").read_text()

    def record(self) -> Record | None:
        paths = sorted((self.place / "results").rglob("*.json"))
        return load(paths[0]) if paths else None

    def weights(self) -> dict[str, torch.Tensor]:
        folder = self.folder()
        assert folder is not None
        return load_file(folder / "model.safetensors")


def timeless(record: Record) -> Record:
    """The record without times, memory and commit."""
    curve = [replace(point, seconds=None) for point in record.curve]
    known: dict = dict.fromkeys(("train_seconds", "total_seconds", "steps_per_second", "peak_memory_mib"))
    known["git"] = Git(commit=None, dirty=None)
    moment = "2026-01-01T00:00:00Z"
    return replace(record, curve=curve, started=moment, finished=moment, **known)


def assert_same(run: Run, undisturbed: Run) -> None:
    """Losses, weights and the rest of the record are equal bit for bit, except times."""
    a, b = run.record(), undisturbed.record()
    assert a is not None
    assert b is not None
    assert a.status == "ok", a.reason
    assert timeless(a) == timeless(b)
    ours, theirs = run.weights(), undisturbed.weights()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
