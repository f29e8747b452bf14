"""`TaskData`, the Lightning data module that every task derives from.

    prepare_data   choose the source (data/source.py), have it write the prepared folder (data/prepared.py)
    setup          open that folder, cut the splits
    *_dataloader   batches of a split (data/loader.py)

The constructor reads nothing and writes nothing.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytorch_lightning as pl
import torch

from data import download, prepared
from data.duplicates import equal_examples, in_words
from data.loader import Affine, Examples, Loader
from data.prepared import DataError
from data.source import Source, choose, from_archive
from lra.console import say
from lra.distributed import rank, world_size
from lra.task import TaskSpec

SPLITS = ("train", "val", "test")
ENOUGH = 8  # examples of a split that cannot all have one label by chance
TOY_COUNTS = dict.fromkeys(SPLITS, 64)


@dataclass
class Opened:
    """A prepared folder in use.

    arrays     memory-mapped arrays by name
    index      rows of the examples of each split
    on_device  copies of the examples on accelerators
    """

    manifest: dict[str, Any]
    arrays: dict[str, np.ndarray]
    examples: Examples
    index: dict[str, np.ndarray]
    on_device: dict[torch.device, Examples] = field(default_factory=dict)


class TaskData(pl.LightningDataModule):
    """Base class of the tasks; they add their own arguments and override the methods of the first part.

    batch_size       examples of a training batch over all processes; a multiple of their number
    eval_batch_size  examples of an evaluation batch; None: 4 * batch_size, which without gradients takes less memory
                     than a training batch in models of several layers
    seed             with the epoch, the order of training examples; nothing else
    root             prepared data is in <root>/<task>, downloads in <root>/raw
    source           "auto"      data in $LRA_MIRROR or <root>/raw, else prepared data, else generated or downloaded
                     "official"  the same, but neither generated nor a substitute
                     "generated" or "toy" (made-up data of the right shape, for tests), or a folder
    resident         all examples on the accelerator: True, False, or "auto", if they take at most 40 % of what is free
    pad              "longest", "max" or a multiple k, see data/loader.py; no effect if all examples have one length
    length_aware     training batches of similar length (off in every paper's recipe)
    n_train ...      use that many examples, drawn with data_seed from the split; None: all
    data_seed        decides generated data and drawn subsets; recorded with the data, not to be varied with runs
    """

    name: str = ""
    spec: TaskSpec
    archive = download.LRA
    archive_folder = ""  # the task's folder in it; empty: there is no official data
    real_editions: tuple[str, ...] = ("official",)
    selection_on_test = False
    distinct = False  # generated data has no example in two splits
    eos: int | None = None
    affine: Affine | None = None

    def __init__(
        self,
        *,
        batch_size: int,
        eval_batch_size: int | None = None,
        seed: int = 0,
        root: str | Path = "data/prepared",
        source: str | Path = "auto",
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
        if not isinstance(self.name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise DataError(f"name={self.name!r}: letters, digits, _ and - only")
        self.batch_size = check_integer("batch_size", batch_size)
        self.eval_batch_size = check_integer("eval_batch_size", eval_batch_size or 4 * batch_size)
        self.seed, self.data_seed = check_integer("seed", seed, 0), check_integer("data_seed", data_seed, 0)
        self.root, self.source = Path(root), str(source)
        self.resident, self.pad, self.length_aware = resident, pad, length_aware
        self.requested = {"train": n_train, "val": n_val, "test": n_test}
        for split, n in self.requested.items():
            if n is not None:
                check_integer(f"n_{split}", n)
        check_choice("resident", resident, (True, False, "auto"))
        if pad not in ("longest", "max") and not (isinstance(pad, int) and pad > 0):
            raise DataError(f"pad={pad!r}: longest, max or a positive multiple")
        self._opened: Opened | None = None

    # -- what a task says about itself: overridden where the default does not fit

    def parameters(self, edition: str) -> dict[str, Any]:
        """Arguments that decide the content of an edition's prepared arrays."""
        raise NotImplementedError

    def made_counts(self, default: Mapping[str, int] = TOY_COUNTS) -> dict[str, int]:
        """{"n_train": ...} of generated or toy data: the arguments, or the default."""
        return {f"n_{split}": n or default[split] for split, n in self.requested.items()}

    def too_many(self, available: Mapping[str, int]) -> str | None:
        """The argument n_train, n_val or n_test that is larger than the official split, as `mismatch` reports it."""
        for split, n in self.requested.items():
            if n is not None and n > available[split]:
                return f"n_{split}={n}: the official split has {available[split]}; source=generated makes more"
        return None

    def toy_parameters(self) -> dict[str, Any]:
        return self.made_counts() | {"data_seed": self.data_seed}

    def find_files(self, folder: Path) -> Source | None:
        """The task's official files in a user's folder, in any known layout; None if there are none."""
        return None

    def find(self, folder: Path) -> Source | None:
        """The task's data in a folder: its files, or the archive with them."""
        path = folder / self.archive.file
        if (found := self.find_files(folder)) is not None or not self.archive_folder or not path.is_file():
            return found
        return from_archive(self, lambda: path)

    def downloaded(self) -> Source:
        """Data to be downloaded into <root>/raw."""
        if not self.archive_folder:
            raise DataError(f"source={self.source}: {self.name} has no official data", hint="source=generated")
        alternative = f"give a folder with {self.archive_folder} or {self.archive.file} as data.source or $LRA_MIRROR"
        if self.generated() is not None:
            alternative += ", or data.source=generated"
        return from_archive(self, lambda: download.fetch(self.archive, self.root / "raw", alternative))

    def archive_description(self) -> str:
        return f"LRA {self.archive_folder}"

    def generated(self) -> Source | None:
        """Data made by the task's own rules; None if it has none."""
        return None

    def toy(self) -> Source | None:
        """Learnable made-up data of the right shape for tests, never for results; None if there is none."""
        return None

    def named_source(self, name: str) -> Source | None:
        """The source that `source=name` asks for; None for "auto", "official" and folders."""
        if name == "toy":
            found, problem = self.toy(), "has no toy data"
        elif name == "generated":
            found, problem = self.generated(), "cannot be generated"
        else:
            return None
        if found is None:
            raise DataError(f"source={name}: {self.name} {problem}", hint="source=auto, official or a folder")
        return found

    def make_examples(self, arrays: dict[str, np.ndarray]) -> Examples:
        """The examples of the prepared arrays."""
        return Examples.of_arrays(arrays, self.spec.max_len, eos=self.eos, affine=self.affine)

    def mismatch(self, edition: str) -> str | None:
        """Why an edition's data does not fit the arguments; None if it does."""
        return None

    def split(self, parts: dict[str, range], edition: str) -> dict[str, np.ndarray]:
        """Rows of train, val and test before they are cut to n_train, n_val, n_test."""
        return {name: np.asarray(parts[name]) for name in SPLITS}

    def deviations(self) -> list[str]:
        """How the arguments differ from the benchmark's task."""
        return []

    def check(self, advance: Callable[[int], object]) -> None:
        """Task-specific checks of all opened examples; raises DataError for the first bad one."""

    def statistics(self) -> dict[str, str]:
        """Task-specific statistics, in addition to lengths and labels."""
        return {}

    def text(self, row: int) -> str | None:
        """Row `row` of the arrays as text; None if it is a picture."""
        return None

    def pixels(self, row: int) -> np.ndarray | None:
        """Row `row` of the arrays as a grey picture, uint8 (side, side); None if it is text."""
        return None

    # -- from source to batches

    @functools.cached_property
    def data_source(self) -> Source:
        """The source, chosen once."""
        return choose(self)

    def folder(self, edition: str) -> Path:
        return self.root / self.name / f"{edition}-{prepared.digest(self.parameters(edition))}"

    @property
    def prepared_folder(self) -> Path:
        return self.folder(self.data_source.edition)

    def prepare_data(self) -> None:
        """Write the prepared folder if it is missing."""
        source, folder = self.data_source, self.prepared_folder
        if not folder.is_dir():
            say(f"{self.name}: preparing from {source.description} into {folder}")
        header = {
            "task": self.name,
            "edition": source.edition,
            "kind": source.kind,
            "source": source.description,
            "notes": list(source.notes),
            "identity": source.identity,
            "parameters": self.parameters(source.edition),
        }

        def write(work: Path) -> dict[str, Any]:
            about: dict[str, Any] = {}
            if source.files:
                about["stamps"] = {path.name: prepared.stamp(path) for path in source.files}
            if source.tree is not None:
                about["tree"] = {
                    "state": prepared.tree_state(source.tree),
                    "sha256": prepared.tree_hash(source.tree),
                }
            return source.write(work) | about

        manifest = prepared.build(folder, header, write, resumable=source.resumable)
        self._check_identity(manifest)
        self._check_tree(manifest)

    def setup(self, stage: str | None = None) -> None:
        """Open the prepared folder."""
        if self._opened is not None:
            return
        folder = self.prepared_folder
        if not folder.is_dir():
            hint = f"python scripts/prepare_data.py prepare task={self.name}"
            raise DataError(f"{folder}: not prepared yet", hint=hint)
        manifest = prepared.read_manifest(folder)
        self._check_identity(manifest)
        arrays = {Path(name).stem: prepared.read_array(folder / name) for name in manifest["files"]}
        examples = self.make_examples(arrays)
        parts = {name: range(*ends) for name, ends in manifest["parts"].items()}
        n = len(arrays["y"] if "y" in arrays else arrays["x"])
        if any(part.stop > n or part.start < 0 for part in parts.values()):
            problem = f"{folder}: parts {manifest['parts']} reach past {n} examples"
            raise DataError(problem, hint=f"delete {folder} and prepare it again")
        index = self.split(parts, manifest["edition"])
        self._check_test_is_held_out(index)
        index = {name: self._subset(name, rows) for name, rows in index.items()}
        for name, rows in index.items() if self.spec.objective == "classification" else ():
            labels = examples.y[torch.from_numpy(rows)]
            if len(rows) >= ENOUGH and (labels == labels[0]).all():
                raise DataError(f"{self.name}: all {len(rows)} {name} examples have the label {int(labels[0])}")
        self._opened = Opened(manifest, arrays, examples, index)

    def _check_identity(self, manifest: dict[str, Any]) -> None:
        source, stamps = self.data_source, manifest.get("stamps", {})  # older folders have none
        known, now = manifest.get("identity"), source.identity
        other = known is not None and now is not None and known != now
        if other or not all(prepared.is_unchanged(p, stamps[p.name]) for p in source.files if p.name in stamps):
            self._refuse_other_files()

    def _check_tree(self, manifest: dict[str, Any]) -> None:
        """As `_check_identity`, for a folder of many files; its state is kept after its content was compared."""
        tree, before = self.data_source.tree, manifest.get("tree")
        if tree is None or before is None:
            return
        compared = self.prepared_folder / "tree.json"
        known = {before["state"]}
        with contextlib.suppress(OSError, ValueError):
            known.add(json.loads(compared.read_text()))
        if (state := prepared.tree_state(tree)) in known:
            return
        say(f"{self.name}: comparing the files of {self.data_source.description} with those it was prepared from")
        if prepared.tree_hash(tree) != before["sha256"]:
            self._refuse_other_files()
        with contextlib.suppress(OSError):
            prepared.write_json(compared, state)

    def _refuse_other_files(self) -> NoReturn:
        problem = f"{self.prepared_folder}: was prepared from other files than {self.data_source.description} has now"
        raise DataError(problem, hint=f"delete it, or choose another folder with {prepared.OTHER_FOLDER}")

    def _check_test_is_held_out(self, index: dict[str, np.ndarray]) -> None:
        """Test examples are in no other split, unless the configuration names a rule that selects on test."""
        for other in ("train", "val"):
            shared = np.intersect1d(index[other], index["test"]).size
            if shared and not (other == "val" and self.selection_on_test):
                hint = "task=text task.validation=test selects on test, and results are marked for it"
                raise DataError(f"{self.name}: {shared} test examples are in {other} too", hint=hint)

    def _subset(self, split: str, rows: np.ndarray) -> np.ndarray:
        n = self.requested[split]
        if n is None or n == len(rows):
            return rows
        if n > len(rows):
            raise DataError(f"n_{split}={n}: {self.name} has {len(rows)}")
        rng = np.random.default_rng([self.data_seed, SPLITS.index(split)])
        return rows[np.sort(rng.permutation(len(rows))[:n])]

    @property
    def opened(self) -> Opened:
        if self._opened is None:
            raise DataError(f"{self.name}: call prepare_data() and setup() first")
        return self._opened

    @property
    def kind(self) -> str:
        """ "official", "subset", "generated" or "toy"; official data used in part or changed is a subset."""
        return self._kind_in_use(self.opened.manifest["kind"])

    @property
    def available_kind(self) -> str:
        """The `kind` that this data will have, known before it is prepared; DataError if there is no such data."""
        return self._kind_in_use(self.data_source.kind)

    def _kind_in_use(self, kind: str) -> str:
        return "subset" if kind == "official" and (any(self.requested.values()) or self.deviations()) else kind

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(rows) for name, rows in self.opened.index.items()}

    @property
    def compared_splits(self) -> dict[str, np.ndarray]:
        """The splits that should have no example in common, in the order train, val, test."""
        return {k: v for k, v in self.opened.index.items() if not (k == "val" and self.selection_on_test)}

    @functools.cached_property
    def equal_examples(self) -> dict[str, int]:
        """Split -> examples that occur in a split before it; kept in the prepared folder, since it takes a while."""
        key = prepared.digest({"fingerprint": self.fingerprint, "max_len": self.spec.max_len})
        path = self.prepared_folder / f"equal-{key}.json"
        with contextlib.suppress(OSError, ValueError):
            return {split: int(n) for split, n in json.loads(path.read_text()).items()}
        found = equal_examples(self.opened.examples, self.compared_splits)
        with contextlib.suppress(OSError):
            prepared.write_json(path, found)
        return found

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the prepared arrays and of the rows of each split."""
        state = hashlib.sha256(prepared.content_hash(self.opened.manifest).encode())
        for name, rows in self.opened.index.items():
            state.update(name.encode() + rows.astype("<i8").tobytes())
        return state.hexdigest()

    @property
    def notes(self) -> list[str]:
        """Facts about the data for readers of results: what is not official, drawn, or used for selection."""
        manifest = self.opened.manifest
        drawn = {split: n for split, n in self.counts.items() if self.requested[split]}
        notes = [f"data: {manifest['source']}", *manifest["notes"], *self.deviations()]
        if manifest["kind"] == "official" and drawn:
            notes.append("drawn from the official splits: " + ", ".join(f"{n} {split}" for split, n in drawn.items()))
        if sum(self.equal_examples.values()):
            notes.append(in_words(self.equal_examples, self.opened.index))
        if self.selection_on_test:
            notes.append("the test split serves as validation, as in the literature")
        return notes

    def trivial_score(self, split: str) -> float:
        """The objective's first metric of the best answer that ignores the input.

        The accuracy of always giving the commonest label, or the squared error of the training mean.
        """
        if self.spec.objective == "regression":
            targets = {
                name: self.opened.examples.y[torch.from_numpy(self.opened.index[name])] for name in ("train", split)
            }
            return float((targets[split] - targets["train"].double().mean(0)).square().mean())
        y = self.opened.examples.y[torch.from_numpy(self.opened.index[split])]
        return float(torch.bincount(y).max()) / len(y)

    def levels(self, x: torch.Tensor) -> torch.Tensor:
        """Grey levels 0..255, int64 (B, L), of a batch's real-valued input (B, L, 1)."""
        if self.affine is None or self.spec.channels > 1:
            raise DataError(f"{self.name}: its input is not a grey picture of real values")
        a, b = (float(number) for number in self.affine)  # type: ignore[arg-type]
        return ((x[..., 0] - b) / a).round().long().clamp_(0, 255)

    def example(self, split: str, i: int) -> tuple[str | None, np.ndarray | None]:
        """Example i of a split for people: (text, picture), one of them None."""
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
        world = world_size()
        if shuffle and batch_size % world:
            raise DataError(f"batch_size={batch_size}: not a multiple of {world} processes, which take equal shares")
        return Loader(
            self._examples_on(device),
            self.opened.index[split],
            batch_size,
            shuffle=shuffle,
            seed=self.seed,
            pad=self.pad,
            length_aware=self.length_aware and shuffle,
            device=device,
            rank=rank(),
            world=world,
        )

    def _examples_on(self, device: torch.device) -> Examples:
        """The examples on the accelerator if they may and can be there, else on the CPU."""
        opened = self.opened
        if device.type != "cuda" or self.resident is False:
            return opened.examples
        if device not in opened.on_device:
            free = torch.cuda.mem_get_info(device)[0]
            if self.resident == "auto" and opened.examples.n_bytes > 0.4 * free:
                return opened.examples
            opened.on_device[device] = opened.examples.to(device)
        return opened.on_device[device]


def check_integer(name: str, value: Any, least: int = 1) -> int:
    """The value of an argument that must be a whole number; raises DataError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise DataError(f"{name}={value}: a whole number is needed, at least {least}")
    return value


def check_choice(name: str, value: Any, choices: Collection[Any]) -> Any:
    """The value of an argument that must be one of a few; raises DataError."""
    if value not in choices:
        *others, last = map(str, choices)
        raise DataError(f"{name}={value!r}: {', '.join(others)} or {last}")
    return value


def consecutive(counts: Iterable[int]) -> dict[str, tuple[int, int]]:
    """`parts` of a manifest whose splits follow each other in the arrays; counts in the order of SPLITS."""
    return dict(zip(SPLITS, itertools.pairwise(itertools.accumulate(counts, initial=0)), strict=True))


def random_order(n: int) -> np.ndarray:
    """The order of torch.utils.data.random_split with seed 42, as the S4 repository calls it."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(42)).numpy()
