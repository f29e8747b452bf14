"""CIFAR-10 from the official batches and from sprites."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torchvision.datasets import CIFAR10

from data import image
from data.image import Image
from helpers.official_folders import ready, refused


@pytest.fixture
def photographs(monkeypatch):
    """Sixty images, ten a batch, that count as the release."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 32, 32, 3), np.uint8), rng.integers(0, 10, 60, np.uint8)
    monkeypatch.setattr(image, "TRAIN", 50)
    monkeypatch.setattr(image, "TEST", 10)
    monkeypatch.setattr(image, "LABELS_SHA256", hashlib.sha256(labels.tobytes()).hexdigest())
    return images, labels


def batches(place: Path, images, labels, monkeypatch) -> Path:
    """The official folder; torchvision is given its MD5 sums."""
    place = place / image.FOLDER
    place.mkdir(parents=True)
    sums = {}
    names = [*image.BATCHES, "batches.meta"]
    for i, name in enumerate(names):
        part = slice(10 * i, 10 * i + 10)
        rows = images[part].transpose(0, 3, 1, 2).reshape(-1, 3072)
        content = {"data": rows, "labels": labels[part].tolist(), "label_names": [str(k) for k in range(10)]}
        path = place / name
        path.write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in names[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [[names[5], sums[names[5]]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    return place


def test_official_batches_are_grey_and_split_as_in_s4(photographs, tmp_path, monkeypatch):
    images, labels = photographs
    batches(tmp_path / "given", images, labels, monkeypatch)
    task = ready(Image(batch_size=5, eval_batch_size=5, root=tmp_path / "root", source=tmp_path / "given"))
    assert task.kind == "official"
    expected = [np.asarray(Pillow.fromarray(picture).convert("L")).reshape(-1) for picture in images]
    assert np.array_equal(task.opened.examples.x.numpy(), np.stack(expected))
    assert task.opened.examples.y.tolist() == labels.tolist()
    parts = torch.utils.data.random_split(range(50), [45, 5], generator=torch.Generator().manual_seed(42))
    assert [task.opened.index[s].tolist() for s in ("train", "val")] == [list(p.indices) for p in parts]
    in_order = ready(Image(batch_size=5, root=tmp_path / "root", source=tmp_path / "given", variant="lra"))
    assert [in_order.opened.index[s].tolist() for s in ("train", "val")] == [list(range(45)), list(range(45, 50))]
    (batch, _) = task.test_dataloader()
    wanted = (np.stack(expected[50:55]) - 122.6) / 61
    np.testing.assert_allclose(batch.x[..., 0].numpy(), wanted, atol=1e-6)


def test_smaller_size_averages_squares(photographs, tmp_path, monkeypatch):
    images, labels = photographs
    batches(tmp_path / "given", images, labels, monkeypatch)
    full, half = (
        ready(Image(batch_size=5, root=tmp_path / "root", source=tmp_path / "given", size=size)) for size in (32, 16)
    )
    a = full.opened.examples.x[7].numpy().reshape(16, 2, 16, 2).mean((1, 3))
    assert np.abs(half.opened.examples.x[7].numpy().reshape(16, 16) - a).max() <= 0.5
    assert any("reduced to 16 x 16" in note for note in half.notes)
    assert half.kind == "subset"


def test_unofficial_batch_file_is_not_unpickled(photographs, tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    place = batches(tmp_path / "given", *photographs, monkeypatch)
    (place / "data_batch_3").write_bytes(pickle.dumps(Bomb()))
    refused(Image, tmp_path / "given", "a batch file is missing or its MD5 is not the official one")
    assert not (tmp_path / "exploded").exists()


def test_sprite_is_cut_in_the_order_of_the_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(image, "BATCHES", ("batch",))
    monkeypatch.setattr(image, "TRAIN", 5000)
    number = np.arange(10_000)
    colours = np.stack([number // 256, number % 256, np.full(10_000, 7)], 1).astype(np.uint8)
    sprite = colours.reshape(100, 100, 3).repeat(32, 0).repeat(32, 1)
    Pillow.fromarray(sprite).save(tmp_path / "batch.webp", lossless=True, quality=0, method=0)
    np.savez(tmp_path / "labels.npz", labels=number % 10, exact=~np.isin(number, (0, 4999, 5000)))
    images, labels, more = image.from_sprites(tmp_path)
    assert images.shape == (10_000, 32, 32, 3)
    assert (images == colours[:, None, None]).all()
    assert labels.tolist() == (number % 10).tolist()
    assert more == {"notes": ["3 of 10000 images (1 of them in test) come from JPEG copies"]}


def test_other_labels_are_refused(photographs, tmp_path, monkeypatch):
    images, labels = photographs
    batches(tmp_path / "given", images, labels[::-1].copy(), monkeypatch)
    refused(Image, tmp_path / "given", "the labels are not CIFAR-10's in its order")


def test_damaged_sprites_are_one_line(tmp_path):
    place = tmp_path / "cifar10"
    place.mkdir()
    np.savez(place / "labels.npz", labels=np.zeros(60_000, np.uint8), exact=np.ones(60_000, bool))
    for name in image.BATCHES:
        Pillow.new("RGB", (32, 32)).save(place / f"{name}.webp")
    refused(Image, tmp_path, r"data_batch_1\.webp: 32 x 32 pixels, expected 3200 x 3200")
    (place / "data_batch_1.webp").write_bytes(b"RIFFnonsense")
    refused(Image, tmp_path, r"data_batch_1\.webp: not a readable WebP picture")
    (place / "labels.npz").write_bytes(b"PK nonsense")
    refused(Image, tmp_path, r"labels\.npz: not readable")


def test_official_is_never_a_substitute(tmp_path, monkeypatch):
    """Sprites, some of them lossy, are not official CIFAR-10."""
    place = tmp_path / "cifar10"
    place.mkdir()
    for name in ("labels.npz", *(f"{batch}.webp" for batch in image.BATCHES)):
        (place / name).write_bytes(b"something")
    monkeypatch.setenv("LRA_MIRROR", str(tmp_path))
    assert Image(batch_size=5, root=tmp_path / "root").data_source.edition == "sprites"
    official = Image(batch_size=5, root=tmp_path / "root", source="official").data_source
    assert (official.edition, official.description) == ("official", image.CIFAR.file)
