"""Checkpoints: a run killed at any step resumes from the last one and gives the same result, bit for bit."""

import contextlib
import io
import random
import signal
import time
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from lra.distributed import all_gather, all_reduce_max, rank, world_size
from lra.errors import UserError
from lra.io.atomic import atomic_write, disk_errors_explained
from lra.records.code import Files, changes, code_files

HINT = "runs=/some/dir"
WANDB_ID = "wandb-id"  # file with the id of the run at W&B, which a resumed run continues
KEYS = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "parts"}


@dataclass(frozen=True)
class Identity:
    """What decides a result besides the configuration: hashes of the code's files, kind and fingerprint of the data."""

    code: Files
    kind: str
    fingerprint: str

    @classmethod
    def of(cls, config: Mapping[str, Any], data: Any) -> "Identity":
        return cls(code_files(config), data.kind, data.fingerprint)


class Interrupted(RuntimeError):
    """The run was asked to stop; its state is in the checkpoint."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Atomic writes in torch's format; Lightning's own writer goes through another folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_state(Path(path), checkpoint)


def write_state(path: Path, state: Mapping) -> None:
    """torch.save as an atomic write; OSError in one line on a disk error, the older file untouched."""
    # serialised in memory first: a full disk is then the error of an ordinary write
    content = io.BytesIO()
    torch.save(state, content)
    atomic_write(path, content.getbuffer(), hint=HINT, temporary=path.with_name(path.name + ".tmp"))


def read_state(path: Path) -> Any:
    """Read a file of `write_state`, verifying checksums (torch does not) and running no code in it.

    raises  ValueError, one line, if the file is damaged or not a checkpoint
    """
    try:
        with zipfile.ZipFile(path) as content:
            if (damaged := content.testzip()) is not None:
                raise ValueError(f"{damaged} does not match its checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways, none of which runs code
        reason = (str(error).splitlines() or [""])[0][:120]
        raise ValueError(f"{path}: not readable ({type(error).__name__}: {reason})") from None


def read_checkpoint(path: Path) -> dict:
    """The full state of a training; ValueError, one line, if the file holds something else."""
    state = read_state(path)
    if not isinstance(state, dict) or (missing := KEYS - state.keys()):
        lacking = ", ".join(sorted(missing)) if isinstance(state, dict) else "everything"
        raise ValueError(f"{path}: not readable (not a checkpoint: lacks {lacking})")
    return state


def random_states() -> dict[str, Any]:
    """States of this process's random generators: torch's, and Python's and NumPy's, which a model may use."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    name, keys, *rest = numpy_state
    states = {
        "cpu": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Any]) -> None:
    """Restore the generators; one without an entry in `states` is left alone."""
    torch.set_rng_state(states["cpu"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
    if "python" in states:
        random.setstate(states["python"])
    if "numpy" in states:
        name, keys, *rest = states["numpy"]
        np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002


def discard(folder: Path) -> None:
    """Remove the checkpoints of a run whose record is written, or that starts over; model.safetensors stays."""
    patterns = ("last.ckpt", "previous.ckpt", "next.ckpt*", "damaged.ckpt", "best-*.ckpt*", "pretrain*/*", WANDB_ID)
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def resumable_state(folder: Path) -> dict | None:
    """What `Checkpoint` saved of an unfinished run, and `path`; None if there is nothing to resume."""
    for path in (folder / "last.ckpt", folder / "previous.ckpt"):
        with contextlib.suppress(ValueError):
            return callback_state(read_checkpoint(path)) | {"path": path}
    return None


def callback_state(state: Mapping[str, Any]) -> dict:
    """The part of a checkpoint that `Checkpoint` saved."""
    return next((s for s in state["callbacks"].values() if isinstance(s, dict) and "best" in s), {})


def check_resumable(folder: Path, identity: Identity, *, anyway: bool = False) -> float | None:
    """The best validation score of the unfinished run in `folder`; None if there is nothing to resume.

    anyway  resume even if the code has changed
    raises  UserError if the run began with other data or other code
    """
    pretrained, pretraining = folder / "pretraining" / "pretrained.ckpt", resumable_state(folder / "pretraining")
    if pretraining is None and pretrained.exists():
        pretraining = read_state(pretrained) | {"path": pretrained}
    found = resumable_state(folder)
    for state in filter(None, (pretraining, found)):
        if (saved := state.get("identity")) is None:  # of an older version
            continue
        path, before = state["path"], Identity(**saved)
        if (before.kind, before.fingerprint) != (identity.kind, identity.fingerprint):
            names = (f"{each.kind} data {each.fingerprint[:12]}" for each in (before, identity))
            raise UserError(f"{path}: begun with {', this command has '.join(names)}", hint="force=true starts over")
        if not anyway and (changed := changes(before.code, identity.code)):
            hint = "force=true starts over, resume=anyway continues with the changed code"
            raise UserError(f"{path}: begun with other {changed}", hint=hint)
    return found["best"]["score"] if found and "best" in found else None


class Checkpoint(Callback):
    """Saves the full training state to `folder`/last.ckpt, and the best weights to best-<step>.ckpt.

    every_seconds  time between two saves; a signal (SIGTERM, Ctrl-C) saves at once and stops the run
    The save before stays as previous.ckpt; the best weights that either names are kept.
    Several processes agree when to save and to stop: at each step, or at every tenth on an accelerator, where agreeing
    waits for the device.
    "Best" is the best validation score, the earliest of equals (the rule of the S4 repository).
    identity  kept in the checkpoint; `notes` say where a resumed run's code had changed
    """

    def __init__(self, folder: Path, *, every_seconds: float = 300.0, identity: Identity | None = None):
        self.folder, self.every_seconds, self.identity = folder, every_seconds, identity
        self.notes: list[str] = []
        self._resumed_step = 0
        self._start, self._seconds_before = time.perf_counter(), 0.0
        self.best: dict = {"score": None, "step": 0}
        self._saved_best = 0  # step of the best weights at the last save
        self._random: dict | None = None
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}
        self._saved = time.monotonic()

    def state_dict(self) -> dict:
        state = {"best": self.best, "random": all_gather(random_states()), "seconds": self.seconds, "notes": self.notes}
        return state | {"identity": None if self.identity is None else asdict(self.identity)}

    def load_state_dict(self, state: dict) -> None:
        self.best, self._saved_best = dict(state["best"]), state["best"]["step"]
        self._seconds_before, self.notes = state.get("seconds", 0.0), list(state.get("notes", []))
        if self.identity is not None and (saved := state.get("identity")) is not None:
            changed = changes(saved["code"], self.identity.code)
            self.notes += [f"resumed at step {self._resumed_step} with other {changed}"] if changed else []
        # the run may have had fewer processes before
        self._random = dict(enumerate(state["random"])).get(rank())

    @property
    def seconds(self) -> float:
        """Duration of the run up to now, with the time before it was resumed."""
        return self._seconds_before + time.perf_counter() - self._start

    def newest(self, learner: nn.Module) -> Path | None:
        """The last checkpoint that can be read; None if there is none.

        raises  UserError if it belongs to another model than `learner`
        """
        found = [path for name in ("last.ckpt", "previous.ckpt") if (path := self.folder / name).exists()]
        for path in found:
            try:
                state = read_checkpoint(path)
            except ValueError as error:
                print(f"{error}; trying the one before")
                # moved away, so that the next save does not replace the good one with it
                with contextlib.suppress(OSError):
                    path.replace(self.folder / "damaged.ckpt")
                continue
            saved, ours = (
                {k: tuple(v.shape) for k, v in s.items()} for s in (state["state_dict"], learner.state_dict())
            )
            if different := sorted(k for k in saved.keys() | ours.keys() if saved.get(k) != ours.get(k)):
                raise UserError(
                    f"{path}: of another version of this model ({different[0]})", hint="force=true starts over"
                )
            self._resumed_step = state["global_step"]
            return path
        if found:
            print(f"{self.folder}: no checkpoint can be read; the run starts again")
        return None

    def best_weights(self) -> dict:
        """The weights that validation chose; UserError if they are damaged or missing."""
        try:
            return read_state(self._best_path())
        except ValueError as error:
            raise UserError(str(error), hint=f"delete {self.folder} to train again") from None

    def _best_path(self) -> Path:
        return self.folder / f"best-{self.best['step']}.ckpt"

    def save(self, trainer: pl.Trainer) -> None:
        last, previous, new = (self.folder / name for name in ("last.ckpt", "previous.ckpt", "next.ckpt"))
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            with disk_errors_explained(last, HINT):
                if last.exists():
                    last.replace(previous)
                new.replace(last)
            needed = {f"best-{step}.ckpt" for step in (self.best["step"], self._saved_best)}
            for path in self.folder.glob("best-*.ckpt"):
                if path.name not in needed:
                    path.unlink(missing_ok=True)
        self._saved, self._saved_best = time.monotonic(), self.best["step"]

    def _on_signal(self, number: int, frame: object) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: do not wait for the end of the step
        self._signal = number

    def on_train_start(self, trainer, pl_module) -> None:
        with disk_errors_explained(self.folder, HINT):
            self.folder.mkdir(parents=True, exist_ok=True)
        if self._random is None and rank() > 0:
            torch.manual_seed(torch.initial_seed() + rank())  # dropout differs between processes
        if self._random is not None:
            set_random_states(self._random)
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        # a step followed by a validation is complete only after it
        if trainer.global_step % trainer.val_check_batch:
            self._save_if_due(trainer)

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        device = trainer.strategy.root_device
        if world_size() > 1 and device.type != "cpu" and trainer.global_step % 10:
            return
        due = time.monotonic() - self._saved > self.every_seconds
        number, save = all_reduce_max([self._signal or 0, due], device)
        if number or save:
            self.save(trainer)
        if number:
            raise Interrupted(f"stopped by {signal.Signals(int(number)).name} at step {trainer.global_step}")

    def on_validation_end(self, trainer, pl_module) -> None:
        score, best = pl_module.results["val"]["score"], self.best["score"]
        if best is None or pl_module.objective.metric.better(score, best):
            self.best = {"score": score, "step": trainer.global_step}
            if trainer.is_global_zero:
                write_state(self._best_path(), pl_module.model.state_dict())
        self._save_if_due(trainer)

    def on_train_end(self, trainer, pl_module) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def on_exception(self, trainer, pl_module, exception) -> None:
        self.on_train_end(trainer, pl_module)
