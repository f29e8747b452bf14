"""What all tasks share: where data comes from, when it is made, how it becomes batches.

A task says what it is and which data it knows (data/contract.py); the rest is here. Nothing is read, made or fetched by
the constructor.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist

from data import prepared
from data.contract import SPLITS, Contract
from data.loader import Loader, Pool, tensor
from data.prepared import DataError
from data.source import Origin, choose
from lra.console import say

__all__ = ["SPLITS", "DataError", "Loader", "Origin", "Pool", "TaskData", "tensor", "whole"]


@dataclass
class _Opened:
    """A prepared folder in use."""

    manifest: dict
    pool: Pool
    index: dict[str, np.ndarray]
    resident: dict[torch.device, Pool] = field(default_factory=dict)


class TaskData(Contract, pl.LightningDataModule):
    """Base of the tasks; subclasses add their own arguments and hand these on, and answer what is in `Contract`.

    batch_size       examples of a training batch, over all processes; it must be a multiple of their number
    eval_batch_size  of an evaluation batch; None: four times batch_size, which without gradients takes less memory than
                     a training batch in models of several layers
    seed             decides the order of training examples, with the epoch; nothing else
    root             prepared data lies in <root>/<task>, downloads in <root>/raw
    source           "auto"      what $LRA_MIRROR or <root>/raw holds, else what is prepared, else generated or fetched
                     "official"  the same, but neither generated nor a substitute
                     "generated" or "toy" (made-up data of the right shape, for tests), or a folder
    resident         whole pool on the accelerator: True, False, or "auto", if it takes at most 40 % of what is free
    pad              "longest", "max" or a multiple k, see data/loader.py; no effect where all examples are equally long
    length_aware     batches of similar length (off in every paper's recipe)
    n_train ...      use that many examples, drawn with data_seed from the split; None: all
    data_seed        decides generated data and drawn subsets; recorded with the data, not to be varied with runs
    """

    def __init__(
        self,
        *,
        batch_size: int,
        eval_batch_size: int | None = None,
        seed: int = 0,
        root: str | Path = "data/prepared",
        source: str = "auto",
        resident: bool | str = "auto",
        pad: str | int = "longest",
        length_aware: bool = False,
        n_train: int | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
        data_seed: int = 0,
        name: str | None = None,
    ):
        super().__init__()
        self.name = name or self.name
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or 4 * batch_size
        self.seed, self.data_seed = seed, data_seed
        self.root, self.source = Path(root), str(source)
        self.resident, self.pad, self.length_aware = resident, pad, length_aware
        self.wanted = {"train": n_train, "val": n_val, "test": n_test}
        self._opened: _Opened | None = None
        self._check_arguments()

    def _check_arguments(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise DataError(f"name={self.name!r}: the name of a folder is needed, of letters, digits, _ and -")
        whole("batch_size", self.batch_size)
        whole("eval_batch_size", self.eval_batch_size)
        for split, n in self.wanted.items():
            if n is not None:
                whole(f"n_{split}", n)
        for name in ("seed", "data_seed"):
            whole(name, getattr(self, name), least=0)
        if self.resident not in (True, False, "auto"):
            raise DataError(f"resident={self.resident!r}: true, false or auto")
        if self.pad not in ("longest", "max") and not (isinstance(self.pad, int) and self.pad > 0):
            raise DataError(f"pad={self.pad!r}: longest, max or a positive multiple")

    def folder(self, edition: str) -> Path:
        return self.root / self.name / f"{edition}-{prepared.digest(self.parameters(edition))}"

    def origin(self) -> Origin:
        """Where data comes from, given `source` and what lies on disk; raises DataError if nowhere."""
        return choose(self)

    def prepare_data(self) -> None:
        """Make the prepared form unless it is there: the only step that writes to disk."""
        origin = self.origin()
        folder = self.folder(origin.edition)
        if not folder.is_dir():
            say(f"{self.name}: preparing from {origin.source} into {folder}")
        header = {
            "task": self.name,
            "edition": origin.edition,
            "kind": origin.kind,
            "source": origin.source,
            "notes": list(origin.notes),
            "identity": origin.identity,
            "parameters": self.parameters(origin.edition),
        }
        self._same(prepared.build(folder, header, origin.write, resumable=origin.resumable, say=say), origin, folder)

    def _same(self, manifest: dict, origin: Origin, folder: Path) -> None:
        known = manifest.get("identity")
        if origin.identity is not None and known is not None and origin.identity != known:
            raise DataError(
                f"{folder}: was prepared from other files than {origin.source} holds now; "
                "delete it, or choose another folder with data.root=/some/dir"
            )

    def setup(self, stage: str | None = None) -> None:
        """Open the prepared arrays."""
        if self._opened is not None:
            return
        origin = self.origin()
        folder = self.folder(origin.edition)
        if not folder.is_dir():
            raise DataError(f"{folder}: not prepared yet; python scripts/prepare_data.py prepare task={self.name}")
        manifest = prepared.read_manifest(folder)
        self._same(manifest, origin, folder)
        names = ("x", "offsets", "y", "pairs")
        arrays = {name: prepared.read_array(folder, name) for name in names}
        pool = self.pool(arrays)
        parts = {name: range(*ends) for name, ends in manifest["parts"].items()}
        if any(part.stop > len(pool.y) or part.start < 0 for part in parts.values()):
            raise DataError(f"{folder}: parts {manifest['parts']} reach past {len(pool.y)} examples; prepare it again")
        index = self.split(parts, manifest["edition"])
        self._keep_apart(index)
        self._opened = _Opened(manifest, pool, {name: self._cut(name, rows) for name, rows in index.items()})

    def _keep_apart(self, index: dict[str, np.ndarray]) -> None:
        """No test example may be learned from, nor chosen by, unless the task's rule says so by its name."""
        for other in ("train", "val"):
            shared = np.intersect1d(index[other], index["test"]).size
            if shared and not (other == "val" and self.selection_on_test):
                raise DataError(
                    f"{self.name}: {shared} test examples are in {other} too; only a rule named in the configuration "
                    "may choose by the test set (task=text task.validation=test), and results are marked for it"
                )

    def _cut(self, split: str, rows: np.ndarray) -> np.ndarray:
        n = self.wanted[split]
        if n is None or n == len(rows):
            return rows
        if n > len(rows):
            raise DataError(f"n_{split}={n}: {self.name} has {len(rows)}")
        rng = np.random.default_rng([self.data_seed, SPLITS.index(split)])
        return rows[np.sort(rng.permutation(len(rows))[:n])]

    @property
    def opened(self) -> _Opened:
        if self._opened is None:
            raise DataError(f"{self.name}: prepare_data() and setup() come first")
        return self._opened

    @property
    def kind(self) -> str:
        """ "official", "subset", "generated" or "toy"; official data used in part or altered is a subset."""
        kind = self.opened.manifest["kind"]
        return "subset" if kind == "official" and (any(self.wanted.values()) or self.deviations()) else kind

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(rows) for name, rows in self.opened.index.items()}

    @property
    def fingerprint(self) -> str:
        """One SHA-256 of the prepared arrays and of the rows each split uses."""
        state = hashlib.sha256(prepared.content_hash(self.opened.manifest).encode())
        for name, rows in self.opened.index.items():
            state.update(name.encode() + rows.astype("<i8").tobytes())
        return state.hexdigest()

    @property
    def notes(self) -> list[str]:
        """What a reader of results must know: what is not official, what was drawn, what was selected on."""
        manifest = self.opened.manifest
        drawn = {split: n for split, n in self.counts.items() if self.wanted[split]}
        notes = [f"data: {manifest['source']}", *manifest["notes"], *self.deviations()]
        if manifest["kind"] == "official" and drawn:
            notes.append("drawn from the official splits: " + ", ".join(f"{n} {split}" for split, n in drawn.items()))
        if self.selection_on_test:
            notes.append("the test split serves as validation, as in the literature")
        return notes

    def majority(self, split: str) -> float:
        """Share of the most frequent label: what always giving one answer is worth."""
        y = self.opened.pool.y[torch.from_numpy(self.opened.index[split])]
        return float(torch.bincount(y).max()) / len(y)

    def levels(self, x: torch.Tensor) -> torch.Tensor:
        """The bytes 0..255 (B, L) that a batch's real-valued input (B, L, 1) was made from."""
        affine = self.opened.pool.affine
        if affine is None:
            raise DataError(f"{self.name}: its input is no picture of real values")
        a, b = affine
        return ((x[..., 0] - b) / a).round().long().clamp_(0, 255)

    def shown(self, split: str, i: int) -> tuple[str | None, np.ndarray | None]:
        """Example i of a split as a reader sees it: its text, or its picture."""
        row = int(self.opened.index[split][i])
        return self.text(row), self.pixels(row)

    def train_dataloader(self) -> Loader:
        loader = self._loader("train", self.batch_size, shuffle=True)
        if len(loader) == 0:
            raise DataError(f"batch_size={self.batch_size}: more than the {len(loader.index)} training examples")
        return loader

    def val_dataloader(self) -> Loader:
        return self._loader("val", self.eval_batch_size, shuffle=False)

    def test_dataloader(self) -> Loader:
        return self._loader("test", self.eval_batch_size, shuffle=False)

    def _loader(self, split: str, batch_size: int, *, shuffle: bool) -> Loader:
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        together = dist.is_available() and dist.is_initialized()
        world = dist.get_world_size() if together else 1
        if shuffle and batch_size % world:
            raise DataError(
                f"batch_size={batch_size}: not a multiple of {world} processes; every one takes an equal share"
            )
        return Loader(
            self._on(device),
            self.opened.index[split],
            batch_size,
            shuffle=shuffle,
            seed=self.seed,
            pad=self.pad,
            length_aware=self.length_aware and shuffle,
            device=device,
            rank=dist.get_rank() if together else 0,
            world=world,
        )

    def _on(self, device: torch.device) -> Pool:
        """The pool on the accelerator if it may and can be there, else on the CPU."""
        opened = self.opened
        if device.type != "cuda" or self.resident is False:
            return opened.pool
        if device not in opened.resident:
            free = torch.cuda.mem_get_info(device)[0]
            if self.resident == "auto" and opened.pool.n_bytes > 0.4 * free:
                return opened.pool
            opened.resident[device] = opened.pool.to(device)
        return opened.resident[device]


def whole(name: str, value: Any, least: int = 1) -> int:
    """The value of an argument that must be a whole number; raises DataError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise DataError(f"{name}={value}: a whole number is needed, at least {least}")
    return value
