"""What a task says of itself: what it is, which data it knows, and how that becomes batches and pictures for people."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data import download
from data.loader import Pool
from data.prepared import DataError
from data.source import Origin, from_lra
from lra.task import TaskSpec

SPLITS = ("train", "val", "test")


class Contract:
    """Answered by each task, a subclass of `data.datamodule.TaskData`; what has an answer here is right for most.

    Editions of the data ("official", "generated", "toy", a substitute's) are written in the form of data/prepared.py.
    """

    root: Path  # of prepared data
    spec: TaskSpec
    name = ""
    lra_folder = ""  # in the archive of the Long Range Arena
    real_editions: tuple[str, ...] = ("official",)
    selection_on_test = False
    distinct = False  # generated data promises that no example is in two splits

    def parameters(self, edition: str) -> dict[str, Any]:
        """What decides the content of the prepared arrays of an edition, beside its source."""
        raise NotImplementedError

    def unpacked(self, folder: Path) -> Origin | None:
        """The task's official files in a folder a user gave, in any layout known; None if there are none."""
        raise NotImplementedError

    def find(self, folder: Path) -> Origin | None:
        """The task's data in a folder: its files, or the archive that holds them."""
        if (found := self.unpacked(folder)) is not None:
            return found
        path = folder / download.LRA.file
        return from_lra(self, lambda: path) if path.is_file() else None

    def generated(self) -> Origin | None:
        """Data made on the spot by the task's own rules; None if it has none."""
        return None

    def fetched(self) -> Origin:
        """Data to be downloaded into <root>/raw."""
        instead = f"give a folder that holds {self.lra_folder} or {download.LRA.file} as data.source or $LRA_MIRROR"
        if self.generated() is not None:
            instead += ", or data.source=generated"
        return from_lra(self, lambda: download.fetch(download.LRA, self.root / "raw", instead))

    def toy(self) -> Origin:
        """Made-up data of the right shape, learnable, for tests; never for results."""
        raise DataError(f"source=toy: {self.name} has no toy data; take source=auto, generated or a folder")

    def why_not(self, edition: str) -> str | None:
        """Why data of this edition cannot serve the arguments given; None if it can."""
        return None

    def pool(self, arrays: dict[str, np.ndarray | None]) -> Pool:
        """The prepared arrays as a pool."""
        raise NotImplementedError

    def split(self, parts: dict[str, range], edition: str) -> dict[str, np.ndarray]:
        """Rows of the arrays that make up train, val and test, before any is cut to n_train, n_val, n_test."""
        return {name: np.asarray(parts[name]) for name in SPLITS}

    def deviations(self) -> list[str]:
        """How the arguments make this another task than the benchmark's."""
        return []

    def check(self, advance: Callable[[int], object]) -> None:
        """The task's own checks on opened data, all examples; raises DataError that names the first bad one."""

    def figures(self) -> dict[str, str]:
        """The task's own statistics of opened data, to be shown beside lengths and labels."""
        return {}

    def text(self, row: int) -> str | None:
        """Row `row` of the arrays as a reader sees it; None if it is a picture."""
        return None

    def pixels(self, row: int) -> np.ndarray | None:
        """Row `row` of the arrays as a grey picture, uint8 (side, side); None if it is text."""
        return None
