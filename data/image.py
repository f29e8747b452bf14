"""Image: classify a grey photograph read pixel by pixel, ten classes.

CIFAR-10 (Krizhevsky 2009). Variants: "s4", the default, has values (byte - 122.6) / 61 and the S4 repository's split;
"lra" has 256 tokens and the last tenth of the training images for validation.
"""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow

from data.datamodule import TaskData, check_choice, consecutive, random_order
from data.download import Archive
from data.next_token import NextTokenTask, Rows
from data.prepared import DataError, save_arrays
from data.source import Source, find_folder, sizes
from lra.console import progress_bar
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
# of red, green and blue: S4 repository, src/dataloaders/basic.py
MEANS, DEVIATIONS = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)

Images = tuple[np.ndarray, np.ndarray, dict[str, Any]]  # images (n, 32, 32, 3), labels, manifest entries


class Image(TaskData):
    """CIFAR-10 from the original archive or its folder, or from sprites (one WebP per batch).

    variant  "s4" or "lra"
    size     pixels per side: 32, or 16 or 8 by averaging squares (not the benchmark's task)
    """

    name = "image"
    archive = CIFAR
    archive_folder = FOLDER
    real_editions = ("official", "sprites")

    def __init__(self, *, variant: str = "s4", size: int = 32, **common: Any):
        super().__init__(**common)
        self.variant = check_choice("variant", variant, ("s4", "lra"))
        self.size = check_choice("size", size, (32, 16, 8))
        self.affine = (1 / DEVIATION, -MEAN / DEVIATION) if variant == "s4" else None
        self.spec = TaskSpec(self.name, size * size, 10, None if variant == "s4" else 256)

    def parameters(self, edition: str) -> dict[str, Any]:
        return {"size": self.size} | (self.toy_parameters() if edition == "toy" else {})

    def find_files(self, folder: Path) -> Source | None:
        if place := find_folder(folder, (FOLDER, f"cifar10/{FOLDER}"), BATCHES[0]):
            return self._real("official", "official", FOLDER, partial(from_torchvision, place.parent))
        if place := find_folder(folder, ("cifar10",), f"{BATCHES[0]}.webp"):
            names = (*(f"{name}.webp" for name in BATCHES), "labels.npz")
            # the number of lossy images is known after reading; `from_sprites` returns a note about it
            read = partial(from_sprites, place)
            found = self._real("sprites", "subset", "CIFAR-10 sprites", read, sizes(place, names))
            return replace(found, files=tuple(place / name for name in names))
        return None

    def archive_description(self) -> str:
        return CIFAR.file

    def _real(
        self, edition: str, kind: str, description: str, read: Callable[[], Images], identity: dict | None = None
    ) -> Source:
        def write(work: Path) -> dict[str, Any]:
            images, labels, entries = read()
            if hashlib.sha256(labels.tobytes()).hexdigest() != LABELS_SHA256:
                raise DataError(
                    f"{description}: the labels are not CIFAR-10's in its order", hint="get the files again"
                )
            parts = {"train": (0, TRAIN), "test": (TRAIN, TRAIN + TEST)}
            return self._save(work, images, labels, parts) | entries

        return Source(edition, kind, description, write, identity=identity)

    def deviations(self) -> list[str]:
        return [] if self.size == 32 else [f"images reduced to {self.size} x {self.size}"]

    def toy(self) -> Source:
        def write(work: Path) -> dict[str, Any]:
            rng, counts = np.random.default_rng(self.data_seed), list(self.made_counts().values())
            labels = rng.integers(0, 10, sum(counts), np.uint8)
            noise = rng.integers(0, 60, (sum(counts), 32, 32), np.uint8) + 19 * labels[:, None, None]
            images = np.repeat(noise[..., None], 3, -1)
            return self._save(work, images, labels, consecutive(counts))

        return Source("toy", "toy", "noise, brighter with the label", write)

    def _save(self, work: Path, images: np.ndarray, labels: np.ndarray, parts: dict) -> dict[str, Any]:
        images = self.stored(images)
        k, n = 32 // self.size, len(images)
        if k > 1:
            squares = images.reshape(n, self.size, k, self.size, k, *images.shape[3:])
            images = ((squares.sum((2, 4), dtype=np.uint32) + k * k // 2) // (k * k)).astype(np.uint8)
        save_arrays(work, x=images.reshape(n, *self.stored_shape), y=labels)
        return {"parts": parts}

    def split(self, parts: dict[str, range], edition: str) -> dict[str, np.ndarray]:
        if "val" in parts:
            return super().split(parts, edition)
        n = len(parts["train"])
        order = random_order(n) if self.variant == "s4" else np.arange(n)
        train, val = np.split(order, [n - n // 10])
        return {"train": train, "val": val, "test": np.asarray(parts["test"])}

    def check(self, advance: Callable[[int], object]) -> None:
        """No image is blank."""
        x = self.opened.arrays["x"]
        blank = x.min(1) == x.max(1)
        if blank.any():
            raise DataError(f"{self.name}: image {int(blank.argmax())} is blank")
        advance(len(x))

    def stored(self, images: np.ndarray) -> np.ndarray:
        """What is kept of colour images uint8 (n, 32, 32, 3)."""
        return grey(images)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of a stored example."""
        return self.spec.max_len, *((self.spec.channels,) if self.spec.channels > 1 else ())

    def pixels(self, row: int) -> np.ndarray:
        return self.opened.examples.document(row).reshape(self.size, self.size)


class ColourImage(Image):
    """sCIFAR of the S4 paper: the three colours of a pixel are its channels, standardised as in the S4 repository."""

    name = "scifar"

    def __init__(self, **common: Any):
        super().__init__(**common)
        pairs = tuple(zip(MEANS, DEVIATIONS, strict=True))
        self.affine = tuple(1 / (255 * d) for _, d in pairs), tuple(-m / d for m, d in pairs)
        self.spec = TaskSpec(self.name, 1024, 10, None, channels=3)

    def parameters(self, edition: str) -> dict[str, Any]:
        return super().parameters(edition) | {"colour": True}

    def stored(self, images: np.ndarray) -> np.ndarray:
        return images

    def pixels(self, row: int) -> np.ndarray:
        return grey(self.opened.examples.document(row).reshape(1, 32, 32, 3))[0]


class Density(NextTokenTask, ColourImage):
    """CIFAR-10 for density estimation: each of the 3 * 32 * 32 values from those before, row by row, red, green, blue.

    All training images but the last tenth of the S4 repository's split are trained on; the labels are not used.
    """

    name = "cifar_density"

    def __init__(self, **common: Any):
        super().__init__(**common)
        self.affine = None
        n = 3 * self.size * self.size
        self.spec = TaskSpec(self.name, n, 256, 257, objective="density", horizon=n, causal=True)

    def make_examples(self, arrays: dict[str, np.ndarray]) -> Rows:
        return Rows(torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"]), self.spec.max_len)

    def toy(self) -> Source:
        """Two colours, one above the other."""

        def write(work: Path) -> dict[str, Any]:
            rng, counts = np.random.default_rng(self.data_seed), list(self.made_counts().values())
            n = sum(counts)
            colours = rng.integers(0, 32, (n, 2, 1, 3), np.uint8) * 8 + 7
            images = np.repeat(np.repeat(colours, 16, 1), 32, 2)
            return self._save(work, images, rng.integers(0, 10, n, np.uint8), consecutive(counts))

        return Source("toy", "toy", "two colours, one above the other", write)

    def picture(self, values: np.ndarray) -> np.ndarray:
        """uint8 (side, side, 3) of the values of one image."""
        return values.astype(np.uint8).reshape(self.size, self.size, 3)

    def pixels(self, row: int) -> np.ndarray:
        image = self.picture(self.opened.examples.document(row))
        return grey(image[None])[0]

    def statistics(self) -> dict[str, str]:
        return {
            "trivial bits per dimension, test": f"{self.trivial_score('test'):.3f}",
            "by the pixel to the left": f"{self.neighbour_score('test', 3):.3f}",
        }


def grey(images: np.ndarray) -> np.ndarray:
    """ITU-R 601-2 luma of uint8 (n, H, W, 3), rounded as Pillow's mode "L" does: uint8 (n, H, W)."""
    r, g, b = (images[..., i].astype(np.uint32) for i in range(3))
    return ((19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16).astype(np.uint8)


def from_torchvision(folder: Path) -> Images:
    """The official batch files; torchvision compares their MD5 before it unpickles anything."""
    from torchvision.datasets import CIFAR10

    images, labels = [], []
    with progress_bar("reading CIFAR-10", 2) as advance, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        for train in (True, False):
            try:
                part = CIFAR10(str(folder), train=train, download=False)
            except RuntimeError:
                problem = f"{folder / FOLDER}: a batch file is missing or its MD5 is not the official one"
                raise DataError(problem, hint=f"unpack {CIFAR.file} again") from None
            images.append(part.data)
            labels.append(np.array(part.targets, np.uint8))
            advance(1)
    return np.concatenate(images), np.concatenate(labels), {}


def from_sprites(folder: Path) -> Images:
    """One picture of 100 x 100 images per batch; labels.npz has `labels` and `exact`, False for lossy images."""
    path = folder / "labels.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels, exact = arrays["labels"].astype(np.uint8), arrays["exact"].astype(bool)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{path}: not readable ({error})", hint="copy it again") from None
    images = []
    with progress_bar("reading CIFAR-10", len(BATCHES)) as advance:
        for name in BATCHES:
            path = folder / f"{name}.webp"
            try:
                with Pillow.open(path, formats=("WEBP",)) as picture:
                    width, height = picture.size
                    # another size is not decoded: it could fill the memory
                    pixels = np.asarray(picture.convert("RGB") if (width, height) == (3200, 3200) else [])
            except (OSError, SyntaxError, ValueError) as error:
                raise DataError(f"{path}: not a readable WebP picture ({error})", hint="copy it again") from None
            if (width, height) != (3200, 3200):
                raise DataError(f"{path}: {width} x {height} pixels, expected 3200 x 3200")
            tiles = pixels.reshape(100, 32, 100, 32, 3)
            images.append(tiles.transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3))
            advance(1)
    lossy = int((~exact).sum())
    note = f"{lossy} of {len(exact)} images ({int((~exact[TRAIN:]).sum())} of them in test) come from JPEG copies"
    return np.concatenate(images), labels, {"notes": [note] if lossy else []}
