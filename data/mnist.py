"""Sequential MNIST: classify a digit read pixel by pixel, in order or under a fixed permutation.

LeCun et al. 1998; as in the S4 repository (src/dataloaders/basic.py): values in [0, 1], a tenth of the training images
for validation by its random split, and for pMNIST the order of bit-reversed positions.
"""

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from data.datamodule import TaskData, check_choice, consecutive, random_order
from data.prepared import DataError, save_arrays
from data.source import Source, find_folder, sizes
from lra.task import TaskSpec

# MD5 of the unpacked official files
FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
SIDE, TRAIN, TEST = 28, 60_000, 10_000
PLACES = ("", "mnist", "MNIST/raw", "MNIST")


class MNIST(TaskData):
    """The idx files, packed or not, in a folder or downloaded by torchvision.

    order  "rows", or "bit_reversal": position i of the input is the pixel whose number is i with its ten bits reversed
    """

    name = "smnist"
    archive_folder = "MNIST"
    real_editions = ("official", "changed")

    def __init__(self, *, order: str = "rows", **common: Any):
        super().__init__(**common)
        self.order = check_choice("order", order, ("rows", "bit_reversal"))
        self.affine = (1 / 255, 0.0)
        self.spec = TaskSpec(self.name, SIDE * SIDE, 10, None)

    def parameters(self, edition: str) -> dict[str, Any]:
        return {"order": self.order} | (self.toy_parameters() if edition == "toy" else {})

    def find(self, folder: Path) -> Source | None:
        return self.find_files(folder)

    def find_files(self, folder: Path) -> Source | None:
        for suffix in ("", ".gz"):
            if place := find_folder(folder, PLACES, next(iter(FILES)) + suffix):
                return self._source(tuple(place / f"{name}{suffix}" for name in FILES))
        return None

    def _source(self, paths: tuple[Path, ...]) -> Source:
        sizes(paths[0].parent, tuple(path.name for path in paths))
        changed = [p.name for p, md5 in zip(paths, FILES.values(), strict=True) if md5_of(p) != md5]
        notes = (f"not the official file: {', '.join(changed)}",) if changed else ()
        edition, kind = ("changed", "subset") if changed else ("official", "official")
        return Source(edition, kind, "MNIST", lambda work: self._write(work, paths), notes=notes, files=paths)

    def downloaded(self) -> Source:
        def write(work: Path) -> dict[str, Any]:
            import torchvision

            try:
                torchvision.datasets.MNIST(str(self.root / "raw"), download=True)
            except (OSError, RuntimeError) as error:
                hint = "give a folder with the four idx files as data.source or $LRA_MIRROR"
                raise DataError(f"MNIST cannot be downloaded ({error})", hint=hint) from None
            if (found := self.find_files(self.root / "raw")) is None or found.kind != "official":
                raise DataError(f"{self.root / 'raw'}: its MNIST is not the official one", hint="delete it")
            return found.write(work)

        return Source("official", "official", "MNIST", write)

    def _write(self, work: Path, paths: tuple[Path, ...]) -> dict[str, Any]:
        arrays = [read_idx(path) for path in paths]
        for path, array, n in zip(paths, arrays, (TRAIN, TRAIN, TEST, TEST), strict=True):
            shape = (n, SIDE, SIDE) if array.ndim == 3 else (n,)
            if array.shape != shape:
                raise DataError(f"{path}: has the shape {array.shape}, expected {shape}", hint="get it again")
        images, labels = np.concatenate(arrays[::2]), np.concatenate(arrays[1::2])
        return self._save(work, images, labels, {"train": (0, TRAIN), "test": (TRAIN, TRAIN + TEST)})

    def _save(self, work: Path, images: np.ndarray, labels: np.ndarray, parts: dict) -> dict[str, Any]:
        x = images.reshape(len(images), -1)
        save_arrays(work, x=x[:, bit_reversal(x.shape[1])] if self.order == "bit_reversal" else x, y=labels)
        return {"parts": parts}

    def toy(self) -> Source:
        def write(work: Path) -> dict[str, Any]:
            rng, counts = np.random.default_rng(self.data_seed), list(self.made_counts().values())
            labels = rng.integers(0, 10, sum(counts), np.uint8)
            images = rng.integers(0, 60, (sum(counts), SIDE, SIDE), np.uint8) + 19 * labels[:, None, None]
            return self._save(work, images, labels, consecutive(counts))

        return Source("toy", "toy", "noise, brighter with the label", write)

    def split(self, parts: dict[str, range], edition: str) -> dict[str, np.ndarray]:
        if "val" in parts:
            return super().split(parts, edition)
        n = len(parts["train"])
        train, val = np.split(random_order(n), [n - n // 10])
        return {"train": train, "val": val, "test": np.asarray(parts["test"])}

    def pixels(self, row: int) -> np.ndarray:
        pixels = self.opened.examples.document(row)
        if self.order == "bit_reversal":
            pixels = pixels[np.argsort(bit_reversal(len(pixels)))]
        return pixels.reshape(SIDE, SIDE)


def bit_reversal(n: int) -> np.ndarray:
    """The numbers below n in the order of their reversed bits, of as many bits as n - 1 has."""
    bits = (n - 1).bit_length()
    reversed_bits = np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits)])
    return reversed_bits[reversed_bits < n]


def unpacked(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not readable ({error})", hint="get it again") from None


def md5_of(path: Path) -> str:
    return hashlib.md5(unpacked(path), usedforsecurity=False).hexdigest()


def read_idx(path: Path) -> np.ndarray:
    """uint8 array of an idx file: two zero bytes, type 8, the number of axes, their lengths, the values."""
    content = unpacked(path)
    axes = content[3] if len(content) > 3 else 0
    shape = np.frombuffer(content[4 : 4 + 4 * axes], ">u4").astype(int) if len(content) >= 4 + 4 * axes else ()
    if content[:3] != b"\0\0\x08" or len(shape) == 0 or len(content) != 4 + 4 * axes + int(np.prod(shape)):
        raise DataError(f"{path}: not an idx file of bytes", hint="get it again")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
