"""Stopping and going on: a run killed at any step continues from its last checkpoint as if nothing had happened."""

import contextlib
import signal
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from lra.together import gathered, largest, processes, rank


class Interrupted(RuntimeError):
    """Somebody asked the run to stop; its state is in the checkpoint."""


class Checkpoint(Callback):
    """Keeps the whole state of training in `folder`/last.ckpt, and the best weights in best.ckpt.

    every_seconds  time between two saves of the whole state; a signal (SIGTERM, Ctrl-C) saves at once and stops
    A file is written beside and renamed; the one before stays as previous.ckpt until the next save.
    Several processes agree when to save and to stop: each step, or every tenth on an accelerator, where asking waits.
    "Best" is the highest validation accuracy, the earliest of equals (the rule of the S4 repository).
    """

    def __init__(self, folder: Path, *, every_seconds: float = 300.0):
        self.folder, self.every_seconds = folder, every_seconds
        self.best: dict = {"accuracy": -1.0, "step": 0}
        self._random: dict | None = None
        self._signal: int | None = None
        self._handlers: dict[int, object] = {}
        self._saved = time.monotonic()

    def state_dict(self) -> dict:
        random = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state()
        return {"best": self.best, "random": gathered(random)}

    def load_state_dict(self, state: dict) -> None:
        self.best = dict(state["best"])
        # of another number of processes than now, those there are
        self._random = dict(enumerate(state["random"])).get(rank())

    def newest(self) -> Path | None:
        """The last whole checkpoint, or the one before where the last cannot be read."""
        for name in ("last.ckpt", "previous.ckpt"):
            path = self.folder / name
            if not path.exists():
                continue
            try:
                torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:
                print(f"{path}: not readable ({type(error).__name__}); trying the one before")
                continue
            return path
        return None

    def save(self, trainer: pl.Trainer) -> None:
        last, previous = self.folder / "last.ckpt", self.folder / "previous.ckpt"
        beside = self.folder / "last.ckpt.tmp"
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            if last.exists():
                last.replace(previous)
            beside.replace(last)
        self._saved = time.monotonic()

    def _note(self, number: int, frame: object) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: do not wait for the end of the step
        self._signal = number

    def on_train_start(self, trainer, pl_module) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._random is None and rank() > 0:
            torch.manual_seed(torch.initial_seed() + rank())  # its own noise in dropout
        if self._random is not None:
            torch.set_rng_state(self._random["cpu"].cpu())
            if "cuda" in self._random and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._random["cuda"].cpu())
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
        if number:
            self.save(trainer)
            raise Interrupted(f"stopped by {signal.Signals(int(number)).name} at step {trainer.global_step}")
        if save:
            self.save(trainer)

    def on_validation_end(self, trainer, pl_module) -> None:
        accuracy = pl_module.results["val"]["accuracy"]
        if accuracy > self.best["accuracy"]:
            self.best = {"accuracy": accuracy, "step": trainer.global_step}
            if trainer.is_global_zero:
                beside = self.folder / "best.ckpt.tmp"
                torch.save(pl_module.model.state_dict(), beside)
                beside.replace(self.folder / "best.ckpt")
        self._save_if_due(trainer)

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._handlers.clear()

    def on_train_end(self, trainer, pl_module) -> None:
        self._restore_handlers()

    def on_exception(self, trainer, pl_module, exception) -> None:
        self._restore_handlers()
