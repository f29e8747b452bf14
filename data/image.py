"""Image: ten kinds of things in a photograph, grey, read pixel by pixel.

CIFAR-10 (Krizhevsky 2009). Variants: "s4", the default, gives values (byte - 122.6) / 61 and the S4 repository's
split; "lra" gives 256 tokens and takes the last tenth of the training images for validation.
"""

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow

from data import download
from data.datamodule import SPLITS, DataError, Origin, Pool, TaskData, tensor
from data.download import Archive
from data.source_folders import find_folder, sizes
from lra.console import bar
from lra.task import TaskSpec

CIFAR = Archive(
    "cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    170_498_071,
    400_000_000,
    md5="c58f30108f718f92721af3b95e74349a",
)
FOLDER = "cifar-10-batches-py"
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
TRAIN, TEST = 50_000, 10_000
# of the 60,000 labels in the official order, uint8
LABELS_SHA256 = "3edb456524d5918aefded81f5aef7c32efab2a788211df998a4eb0c8957baa1f"
MEAN, DEVIATION = 122.6, 61.0

Read = Callable[[], tuple[np.ndarray, np.ndarray, dict[str, Any]]]  # images (n, 32, 32, 3), labels, manifest entries


class Image(TaskData):
    """CIFAR-10 from the original archive or its folder, or from lossless sprites (one WebP a batch).

    variant  "s4" or "lra"
    size     pixels a side: 32, or 16 or 8 by averaging squares (not the benchmark's task)
    """

    name = "image"
    real_editions = ("official", "sprites")

    def __init__(self, *, variant: str = "s4", size: int = 32, **common: Any):
        super().__init__(**common)
        if variant not in ("s4", "lra"):
            raise DataError(f"variant={variant!r}: s4 or lra")
        if size not in (32, 16, 8):
            raise DataError(f"size={size}: 32, 16 or 8")
        self.variant, self.size = variant, size
        self.spec = TaskSpec(self.name, size * size, 10, None if variant == "s4" else 256)

    def parameters(self, edition: str) -> dict[str, Any]:
        counts = {f"n_{s}": self.wanted[s] or 64 for s in SPLITS} | {"data_seed": self.data_seed}
        return {"size": self.size} | (counts if edition == "toy" else {})

    def find(self, folder: Path) -> Origin | None:
        if place := find_folder(folder, (FOLDER, f"cifar10/{FOLDER}"), BATCHES[0]):
            return self._real("official", "official", FOLDER, lambda: from_torchvision(place.parent))
        if place := find_folder(folder, ("cifar10",), f"{BATCHES[0]}.webp"):
            identity = sizes(place, (*(f"{name}.webp" for name in BATCHES), "labels.npz"))
            # how many images are not exact is known once they are read; `from_sprites` says it then
            return self._real("sprites", "subset", "CIFAR-10 sprites", lambda: from_sprites(place), identity)
        if (path := folder / CIFAR.file).is_file():
            return self._real("official", "official", CIFAR.file, lambda: self._unpacked(path))
        return None

    def _unpacked(self, path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        download.check(path, CIFAR)
        return from_torchvision(download.unpack(path, self.root / "raw", FOLDER, limit=CIFAR.unpacked).parent)

    def fetched(self) -> Origin:
        instead = f"give a folder that holds {FOLDER} or {CIFAR.file} as data.source or $LRA_MIRROR"
        read = lambda: self._unpacked(download.fetch(CIFAR, self.root / "raw", instead))  # noqa: E731
        return self._real("official", "official", CIFAR.file, read)

    def _real(self, edition: str, kind: str, source: str, read: Read, identity: dict | None = None) -> Origin:
        def write(work: Path) -> dict[str, Any]:
            images, labels, more = read()
            if hashlib.sha256(labels.tobytes()).hexdigest() != LABELS_SHA256:
                raise DataError(
                    f"{source}: the labels are not those of CIFAR-10 in its order; a file is damaged or another"
                )
            parts = {"train": (0, TRAIN), "test": (TRAIN, TRAIN + TEST)}
            return self._save(work, grey(images), labels, parts) | more

        return Origin(edition, kind, source, write, identity=identity)

    def deviations(self) -> list[str]:
        return [] if self.size == 32 else [f"images reduced to {self.size} x {self.size}"]

    def toy(self) -> Origin:
        def write(work: Path) -> dict[str, Any]:
            rng = np.random.default_rng(self.data_seed)
            ends = np.cumsum([0] + [self.parameters("toy")[f"n_{s}"] for s in SPLITS]).tolist()
            labels = rng.integers(0, 10, ends[-1], np.uint8)
            images = rng.integers(0, 60, (ends[-1], 32, 32), np.uint8) + 19 * labels[:, None, None]
            return self._save(work, images, labels, {s: (ends[i], ends[i + 1]) for i, s in enumerate(SPLITS)})

        return Origin("toy", "toy", "noise, brighter with the label", write)

    def _save(self, work: Path, images: np.ndarray, labels: np.ndarray, parts: dict) -> dict[str, Any]:
        k, n = 32 // self.size, len(images)
        if k > 1:
            squares = images.reshape(n, self.size, k, self.size, k)
            images = ((squares.sum((2, 4), dtype=np.uint32) + k * k // 2) // (k * k)).astype(np.uint8)
        np.save(work / "x.npy", images.reshape(n, -1))
        np.save(work / "y.npy", labels)
        return {"parts": parts}

    def pool(self, arrays: dict[str, np.ndarray | None]) -> Pool:
        affine = (1 / DEVIATION, -MEAN / DEVIATION) if self.variant == "s4" else None
        return Pool(tensor(arrays["x"]), tensor(arrays["y"], torch.int64), self.size**2, affine=affine)

    def split(self, parts: dict[str, range], edition: str) -> dict[str, np.ndarray]:
        if "val" in parts:
            return super().split(parts, edition)
        n = len(parts["train"])
        order = np.arange(n)
        if self.variant == "s4":
            # torch.utils.data.random_split with this seed, as the S4 repository calls it
            order = torch.randperm(n, generator=torch.Generator().manual_seed(42)).numpy()
        held = n // 10
        return {"train": order[: n - held], "val": order[n - held :], "test": np.asarray(parts["test"])}

    def check(self, advance: Callable[[int], object]) -> None:
        """No image is blank."""
        x = self.opened.pool.x.numpy()
        blank = x.min(1) == x.max(1)
        if blank.any():
            raise DataError(f"{self.name}: image {int(blank.argmax())} is blank")
        advance(len(x))

    def pixels(self, row: int) -> np.ndarray:
        return self.opened.pool.x[row].numpy().reshape(self.size, self.size)


def grey(images: np.ndarray) -> np.ndarray:
    """ITU-R 601-2 luma of uint8 (n, 32, 32, 3), rounded as Pillow's mode "L" does: uint8 (n, 32, 32)."""
    r, g, b = (images[..., i].astype(np.uint32) for i in range(3))
    return ((19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16).astype(np.uint8)


def from_torchvision(folder: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The official batch files; torchvision compares their MD5 before it unpickles anything."""
    from torchvision.datasets import CIFAR10

    images, labels = [], []
    with bar("reading CIFAR-10", 2) as advance, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        for train in (True, False):
            try:
                part = CIFAR10(str(folder), train=train, download=False)
            except RuntimeError:
                raise DataError(
                    f"{folder / FOLDER}: a batch file is missing or its MD5 is not the official one; "
                    f"unpack {CIFAR.file} again"
                ) from None
            images.append(part.data)
            labels.append(np.array(part.targets, np.uint8))
            advance(1)
    return np.concatenate(images), np.concatenate(labels), {}


def from_sprites(place: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """One picture of 100 x 100 images a batch; labels.npz holds `labels` and `exact`, False for lossy images."""
    try:
        with np.load(place / "labels.npz", allow_pickle=False) as meta:
            labels, exact = meta["labels"].astype(np.uint8), meta["exact"].astype(bool)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{place / 'labels.npz'}: not readable ({error}); copy it again") from None
    images = []
    with bar("reading CIFAR-10", len(BATCHES)) as advance:
        for name in BATCHES:
            path = place / f"{name}.webp"
            try:
                with Pillow.open(path, formats=("WEBP",)) as picture:
                    if picture.size != (3200, 3200):
                        raise DataError(f"{path}: {picture.size} pixels, expected 3200 x 3200")
                    tiles = np.asarray(picture.convert("RGB")).reshape(100, 32, 100, 32, 3)
            except (OSError, SyntaxError, ValueError) as error:
                raise DataError(f"{path}: not a readable WebP picture ({error}); copy it again") from None
            images.append(tiles.transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3))
            advance(1)
    lossy = int((~exact).sum())
    note = f"{lossy} of {len(exact)} images ({int((~exact[TRAIN:]).sum())} of them in test) come from JPEG copies"
    return np.concatenate(images), labels, {"notes": [note] if lossy else []}
