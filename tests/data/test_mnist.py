"""Sequential MNIST and sequential CIFAR in colour: files, orders and values."""

import gzip

import numpy as np
import pytest
import torch

from data import mnist
from data.image import DEVIATIONS, MEANS, ColourImage, grey
from data.mnist import FILES, MNIST, bit_reversal, read_idx
from data.prepared import DataError
from helpers.official_folders import ready


@pytest.fixture
def files(monkeypatch):
    """Small sets: (images, labels) of 50 + 20 digits, and a function that writes their idx files."""
    monkeypatch.setattr(mnist, "TRAIN", 50)
    monkeypatch.setattr(mnist, "TEST", 20)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (70, 28, 28), np.uint8), (np.arange(70) % 10).astype(np.uint8)

    def write(folder, pack: bool = False):
        folder.mkdir(parents=True)
        for name, array in zip(FILES, (images[:50], labels[:50], images[50:], labels[50:]), strict=True):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            content = header + array.tobytes()
            (folder / (name + ".gz" * pack)).write_bytes(gzip.compress(content) if pack else content)
        return folder

    return images, labels, write


@pytest.mark.parametrize(("place", "pack"), [("MNIST/raw", False), ("mnist", True)])
def test_files_become_pixels_in_order(files, tmp_path, place, pack):
    images, labels, write = files
    write(tmp_path / "given" / place, pack)
    task = ready(MNIST(batch_size=5, root=tmp_path / "root", source=str(tmp_path / "given")))
    assert task.counts == {"train": 45, "val": 5, "test": 20}
    assert task.kind == "subset"
    assert any("not the official file: train-images" in note for note in task.notes)
    batch = next(iter(task.test_dataloader()))
    torch.testing.assert_close(batch.x[..., 0], torch.from_numpy(images[50:70].reshape(20, 784) / 255).float())
    assert batch.y.tolist() == labels[50:70].tolist()
    assert (task.pixels(3) == images[3]).all()


def test_permuted_digits_are_the_same_pixels(files, tmp_path):
    images, _, write = files
    write(tmp_path / "given")
    arguments = {"batch_size": 5, "root": tmp_path / "root", "source": str(tmp_path / "given"), "name": "pmnist"}
    task = ready(MNIST(order="bit_reversal", **arguments))
    x = next(iter(task.test_dataloader())).x[0, :, 0] * 255
    assert [round(v) for v in x[:4].tolist()] == images[50].reshape(-1)[[0, 512, 256, 768]].tolist()
    assert (task.pixels(60) == images[60]).all()


def test_bit_reversal_is_a_permutation():
    assert bit_reversal(8).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
    assert bit_reversal(6).tolist() == [0, 4, 2, 1, 5, 3]
    assert sorted(bit_reversal(784)) == list(range(784))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file"),
        (b"\0\0\x08\x01\0\0\0\x05abc", "not an idx file"),
        (b"\0\0\x0d\x01\0\0\0\0", "not an idx"),
    ],
)
def test_damaged_file_is_one_line(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "file")
    (tmp_path / "file.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"file\.gz: not readable"):
        read_idx(tmp_path / "file.gz")


def test_wrong_number_of_digits_is_one_line(files, tmp_path, monkeypatch):
    _, _, write = files
    write(tmp_path / "given")
    monkeypatch.setattr(mnist, "TEST", 21)
    with pytest.raises(DataError, match=r"t10k-images.*has the shape \(20, 28, 28\), expected \(21, 28, 28\)"):
        ready(MNIST(batch_size=5, root=tmp_path / "root", source=str(tmp_path / "given")))


def test_colours_are_channels_of_mean_0(tmp_path):
    task = ready(ColourImage(batch_size=4, root=tmp_path, source="toy", n_train=8, n_val=8, n_test=8))
    stored = task.opened.arrays["x"]
    assert stored.shape == (24, 1024, 3)
    batch = next(iter(task.test_dataloader()))
    rows = task.opened.index["test"][: len(batch.y)]
    expected = (stored[rows] / 255 - np.array(MEANS)) / np.array(DEVIATIONS)
    np.testing.assert_allclose(batch.x, expected, atol=1e-5)
    assert (task.pixels(0) == grey(stored[:1].reshape(1, 32, 32, 3))[0]).all()
    with pytest.raises(DataError, match="not a grey picture"):
        task.levels(batch.x)
