"""Stopping and going on: a run killed at any step continues from its last checkpoint as if nothing had happened."""

import contextlib
import io
import random
import signal
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from lra.distributed import gathered, largest, processes, rank
from lra.io.atomic import refusals_explained, write_whole

CURE = "runs=/some/dir"
KEYS = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "parts"}


class Interrupted(RuntimeError):
    """Somebody asked the run to stop; its state is in the checkpoint."""


class WholeFiles(TorchCheckpointIO):
    """Checkpoints in torch's own format, put in place whole; Lightning's writer goes by way of another folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_state(Path(path), checkpoint)


def write_state(path: Path, state: Mapping) -> None:
    """torch.save, whole or not at all; OSError of one line where the disk refuses, the older file untouched."""
    # packed in memory: a full disk then shows in one place, as the error of an ordinary write
    content = io.BytesIO()
    torch.save(state, content)
    write_whole(path, content.getbuffer(), cure=CURE, beside=path.with_name(path.name + ".tmp"))


def read_state(path: Path) -> Any:
    """What `write_state` wrote, every byte compared with its checksum (torch compares none); no code in it is run.

    raises  ValueError, one line, if the file is damaged or something else
    """
    try:
        with zipfile.ZipFile(path) as content:
            if (damaged := content.testzip()) is not None:
                raise ValueError(f"{damaged} differs from its checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways, none of which runs code
        said = str(error).splitlines() or [""]
        raise ValueError(f"{path}: not readable ({type(error).__name__}: {said[0][:120]})") from None


def read_checkpoint(path: Path) -> dict:
    """The whole state of a training; ValueError, one line, if the file holds something else."""
    state = read_state(path)
    if not isinstance(state, dict) or (missing := KEYS - state.keys()):
        lacks = ", ".join(sorted(missing)) if isinstance(state, dict) else "everything"
        raise ValueError(f"{path}: not readable (no checkpoint: lacks {lacks})")
    return state


def random_states() -> dict[str, Any]:
    """Where this process's generators stand: torch's, and those of Python and NumPy, from which a model may draw."""
    drawn: Any = np.random.get_state()  # noqa: NPY002
    name, keys, *rest = drawn
    states = {
        "cpu": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put the generators there; one that `states` does not know stays where it is."""
    torch.set_rng_state(states["cpu"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
    if "python" in states:
        random.setstate(states["python"])
    if "numpy" in states:
        name, keys, *rest = states["numpy"]
        np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002


def discard(folder: Path) -> None:
    """Remove what is of no use once the record of a run is written; the weights in model.safetensors stay."""
    for pattern in ("last.ckpt", "previous.ckpt", "next.ckpt*", "damaged.ckpt", "best-*.ckpt*", "pretrain*/*"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


class Checkpoint(Callback):
    """Keeps the whole state of training in `folder`/last.ckpt, and the best weights in best-<step>.ckpt.

    every_seconds  time between two saves of the whole state; a signal (SIGTERM, Ctrl-C) saves at once and stops
    The one before stays as previous.ckpt until the next save, and with each the best weights it speaks of.
    Several processes agree when to save and to stop: each step, or every tenth on an accelerator, where asking waits.
    "Best" is the highest validation accuracy, the earliest of equals (the rule of the S4 repository).
    """

    def __init__(self, folder: Path, *, every_seconds: float = 300.0):
        self.folder, self.every_seconds = folder, every_seconds
        self.best: dict = {"accuracy": -1.0, "step": 0}
        self._best_before = 0  # step of the best when the state was last saved
        self._random: dict | None = None
        self._signal: int | None = None
        self._handlers: dict[int, object] = {}
        self._saved = time.monotonic()

    def state_dict(self) -> dict:
        return {"best": self.best, "random": gathered(random_states())}

    def load_state_dict(self, state: dict) -> None:
        self.best, self._best_before = dict(state["best"]), state["best"]["step"]
        # of another number of processes than now, those there are
        self._random = dict(enumerate(state["random"])).get(rank())

    def newest(self, learner: nn.Module) -> Path | None:
        """The last whole checkpoint, or the one before where the last cannot be read; None: there is nothing to read.

        raises  ValueError if it is of another model than `learner`
        """
        found = [path for name in ("last.ckpt", "previous.ckpt") if (path := self.folder / name).exists()]
        for path in found:
            try:
                state = read_checkpoint(path)
            except ValueError as error:
                print(f"{error}; trying the one before")
                # out of the way: the next save must not put it in the place of the good one
                with contextlib.suppress(OSError):
                    path.replace(self.folder / "damaged.ckpt")
                continue
            theirs, ours = (
                {k: tuple(v.shape) for k, v in s.items()} for s in (state["state_dict"], learner.state_dict())
            )
            if apart := sorted(k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k)):
                raise ValueError(f"{path}: of another version of this model ({apart[0]}); delete it to begin anew")
            return path
        if found:
            print(f"{self.folder}: no checkpoint can be read; the run begins anew")
        return None

    def best_weights(self) -> dict:
        """The weights validation chose; ValueError, one line, if they are damaged or gone."""
        path = self._best_path()
        try:
            return read_state(path)
        except ValueError as error:
            raise ValueError(f"{error}; delete {self.folder} to train anew") from None

    def _best_path(self) -> Path:
        return self.folder / f"best-{self.best['step']}.ckpt"

    def save(self, trainer: pl.Trainer) -> None:
        last, previous, beside = (self.folder / name for name in ("last.ckpt", "previous.ckpt", "next.ckpt"))
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            with refusals_explained(last, CURE):
                if last.exists():
                    last.replace(previous)
                beside.replace(last)
            self._forget_older_bests()
        self._saved, self._best_before = time.monotonic(), self.best["step"]

    def _forget_older_bests(self) -> None:
        needed = {f"best-{step}.ckpt" for step in (self.best["step"], self._best_before)}
        for path in self.folder.glob("best-*.ckpt"):
            if path.name not in needed:
                path.unlink(missing_ok=True)

    def _note(self, number: int, frame: object) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: do not wait for the end of the step
        self._signal = number

    def on_train_start(self, trainer, pl_module) -> None:
        with refusals_explained(self.folder, CURE):
            self.folder.mkdir(parents=True, exist_ok=True)
        if self._random is None and rank() > 0:
            torch.manual_seed(torch.initial_seed() + rank())  # its own noise in dropout
        if self._random is not None:
            set_random_states(self._random)
        with contextlib.suppress(ValueError):  # handlers belong to the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._note)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        # a step with a validation is whole only after it
        if trainer.global_step % trainer.val_check_batch:
            self._save_if_due(trainer)

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        device = trainer.strategy.root_device
        if processes() > 1 and device.type != "cpu" and trainer.global_step % 10:
            return
        due = time.monotonic() - self._saved > self.every_seconds
        number, save = largest([self._signal or 0, due], device)
        if number or save:
            self.save(trainer)
        if number:
            raise Interrupted(f"stopped by {signal.Signals(int(number)).name} at step {trainer.global_step}")

    def on_validation_end(self, trainer, pl_module) -> None:
        accuracy = pl_module.results["val"]["accuracy"]
        if accuracy > self.best["accuracy"]:
            self.best = {"accuracy": accuracy, "step": trainer.global_step}
            if trainer.is_global_zero:
                write_state(self._best_path(), pl_module.model.state_dict())
        self._save_if_due(trainer)

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._handlers.clear()

    def on_train_end(self, trainer, pl_module) -> None:
        self._restore_handlers()

    def on_exception(self, trainer, pl_module, exception) -> None:
        self._restore_handlers()
