"""One data set by several routes: whichever way it came, the prepared data is the same."""

import hashlib
import itertools
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

from data import image, text
from data.datamodule import SPLITS
from data.image import Image
from data.prepared import DataError
from data.retrieval import Retrieval
from data.text import Text
from helpers.official_folders import ready

pytestmark = pytest.mark.usefixtures("no_mirror")


@pytest.fixture
def reviews(monkeypatch):
    """Forty reviews that count as the release."""
    rows = [
        (split, label, f"{split} {label} {i}: what a caf\u00e9<br />\u0085".encode())
        for split, label, i in itertools.product(("train", "test"), (0, 1), range(10))
    ]
    state = hashlib.sha256()
    for split, label, content in sorted(rows):
        state.update(f"{split} {label} ".encode() + content + b"\0")
    monkeypatch.setattr(text, "N", 20)
    monkeypatch.setattr(text, "SHA256", state.hexdigest())
    return rows


def folder(place: Path, rows) -> Path:
    for i, (split, label, content) in enumerate(reversed(rows)):
        path = place / "aclImdb" / split / ("neg", "pos")[label] / f"{i}_{1 + 9 * label}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return place


def table(place: Path, rows) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    columns = {"text": [r[2].decode() for r in rows], "label": [r[1] for r in rows], "split": [r[0] for r in rows]}
    pq.write_table(pa.table(columns), place / "imdb.parquet")
    return place


def test_reviews_are_the_same_from_folder_table_and_hugging_face(reviews, tmp_path, monkeypatch):
    import datasets

    def load(name, *, split):
        assert name == "stanfordnlp/imdb"
        return [{"text": content.decode(), "label": label} for s, label, content in reviews[::-1] if s == split]

    monkeypatch.setattr(datasets, "load_dataset", load)
    sources = [folder(tmp_path / "a", reviews), table(tmp_path / "b" / "imdb", reviews).parent, "huggingface"]
    tasks = [
        ready(Text(batch_size=2, root=tmp_path / str(i), source=source, variant="lra"))
        for i, source in enumerate(sources)
    ]
    assert [task.kind for task in tasks] == ["official"] * 3
    assert len({task.fingerprint for task in tasks}) == 1
    rows = [tasks[0].text(row) for row in range(40)]
    assert sorted(rows) == sorted(content.decode() for _, _, content in reviews)
    assert tasks[0].opened.examples.y.tolist() == [0] * 10 + [1] * 10 + [0] * 10 + [1] * 10


def test_the_rule_of_the_literature_learns_from_all_reviews_and_validates_on_those_of_the_test(reviews, tmp_path):
    given = {"batch_size": 2, "root": tmp_path / "root", "source": folder(tmp_path, reviews)}
    held, literature = (ready(Text(validation=rule, **given)) for rule in ("held_out", "test"))
    assert held.counts == {"train": 18, "val": 2, "test": 20}
    assert literature.counts == {"train": 20, "val": 20, "test": 20}
    assert literature.opened.index["val"].tolist() == literature.opened.index["test"].tolist() == list(range(20, 40))
    with pytest.raises(DataError, match="n_val=3: text has 2"):
        ready(Text(n_val=3, **given))


def test_characters_that_training_reviews_have_seldom_or_never_are_unknown(reviews, tmp_path):
    task = ready(Text(batch_size=2, root=tmp_path / "root", source=folder(tmp_path, reviews)))
    vocabulary = task.opened.manifest["vocabulary"]
    assert {"\u00e9", "n"} < set(vocabulary)
    # "9" is in two of twenty training reviews, the "s" of "test" in none
    assert not {"9", "s"} & set(vocabulary)
    assert "\ufffd" in task.text(9)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: next(p.glob("train/pos/*")).unlink(), "9 train reviews of label 1, the release has 10; files are"),
        (lambda p: next(p.glob("test/neg/*")).write_bytes(b""), "no bytes; unpack"),
        (lambda p: next(p.glob("test/neg/*")).write_bytes(b"changed"), "SHA-256 of all texts is"),
        (lambda p: (p / "test" / "neg").rename(p / "test" / "negative"), "test/neg: missing; unpack"),
    ],
)
def test_a_damaged_review_folder_is_one_line(reviews, tmp_path, damage, said):
    damage(folder(tmp_path, reviews) / "aclImdb")
    with pytest.raises(DataError, match=said):
        Text(batch_size=2, root=tmp_path / "root", source=tmp_path).prepare_data()
    assert not list((tmp_path / "root").rglob("*.npy"))


def test_a_damaged_table_is_one_line(reviews, tmp_path):
    path = table(tmp_path / "imdb", reviews) / "imdb.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"imdb\.parquet: not a readable Parquet table") as error:
        Text(batch_size=2, root=tmp_path / "root", source=tmp_path).prepare_data()
    assert "\n" not in str(error.value)


def test_hugging_face_without_network_is_one_line(tmp_path, monkeypatch):
    import datasets

    def fails(*arguments, **named):
        raise ConnectionError("no network\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", fails)
    with pytest.raises(
        DataError, match=r"datasets could not load stanfordnlp/imdb \(no network\); source=auto fetches"
    ):
        Text(batch_size=2, root=tmp_path, source="huggingface").prepare_data()


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
    """The official folder, its MD5 sums told to torchvision."""
    from torchvision.datasets import CIFAR10

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


def test_official_batches_are_read_grey_and_split_as_in_the_s4_repository(photographs, tmp_path, monkeypatch):
    import torch

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


def test_a_smaller_size_averages_squares_and_is_not_called_official_32(photographs, tmp_path, monkeypatch):
    images, labels = photographs
    batches(tmp_path / "given", images, labels, monkeypatch)
    whole, half = (
        ready(Image(batch_size=5, root=tmp_path / "root", source=tmp_path / "given", size=size)) for size in (32, 16)
    )
    a = whole.opened.examples.x[7].numpy().reshape(16, 2, 16, 2).mean((1, 3))
    assert np.abs(half.opened.examples.x[7].numpy().reshape(16, 16) - a).max() <= 0.5
    assert any("reduced to 16 x 16" in note for note in half.notes)
    assert half.kind == "subset"


def test_a_batch_file_that_is_not_the_official_one_is_never_unpickled(photographs, tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    place = batches(tmp_path / "given", *photographs, monkeypatch)
    (place / "data_batch_3").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match="a batch file is missing or its MD5 is not the official one"):
        Image(batch_size=5, root=tmp_path / "root", source=tmp_path / "given").prepare_data()
    assert not (tmp_path / "exploded").exists()
    assert not list((tmp_path / "root").rglob("*.npy"))


def test_a_sprite_is_cut_into_images_in_the_order_of_the_labels(tmp_path, monkeypatch):
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


def test_a_substitute_for_the_pairs_is_read_and_marked(tmp_path):
    place = tmp_path / "aan"
    place.mkdir()
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": ["first", "second", "third"]}), place / "papers.parquet")
    for split, line in (("train", "1\ta\tb"), ("eval", "0\tb\tc"), ("test", "0.0\tc\ta")):
        (place / f"pairs.{split}.tsv").write_text(line + "\n")
    task = ready(Retrieval(batch_size=1, root=tmp_path / "root", source=tmp_path, variant="lra"))
    assert task.kind == "subset"
    assert "not comparable with published ones" in " ".join(task.notes)
    assert [task.text(row) for row in range(3)] == ["first\n--\nsecond", "second\n--\nthird", "third\n--\nfirst"]
    assert task.opened.examples.y.tolist() == [1, 0, 0]
    assert [task.opened.index[split].tolist() for split in SPLITS] == [[0], [1], [2]]
    (place / "pairs.test.tsv").write_text("0\tc\tunknown\n")
    with pytest.raises(DataError, match=r"pairs\.test\.tsv:1: no text of paper 'unknown' in papers\.parquet"):
        Retrieval(batch_size=1, root=tmp_path / "other", source=tmp_path).prepare_data()


@pytest.mark.parametrize(("make", "archive"), [(Text, text.IMDB), (Image, image.CIFAR)])
def test_an_archive_that_is_not_the_original_is_not_opened(make, archive, tmp_path):
    (tmp_path / archive.file).write_bytes(b"something else")
    with pytest.raises(DataError, match=f"14 bytes, the original has {archive.n_bytes}"):
        make(batch_size=2, root=tmp_path / "root", source=tmp_path).prepare_data()


def test_other_labels_are_refused(photographs, tmp_path, monkeypatch):
    images, labels = photographs
    batches(tmp_path / "given", images, labels[::-1].copy(), monkeypatch)
    with pytest.raises(DataError, match="the labels are not those of CIFAR-10 in its order"):
        Image(batch_size=5, root=tmp_path / "root", source=tmp_path / "given").prepare_data()


def test_damaged_sprites_are_one_line(tmp_path):
    place = tmp_path / "cifar10"
    place.mkdir()
    np.savez(place / "labels.npz", labels=np.zeros(60_000, np.uint8), exact=np.ones(60_000, bool))
    for name in image.BATCHES:
        Pillow.new("RGB", (32, 32)).save(place / f"{name}.webp")
    with pytest.raises(DataError, match=r"data_batch_1\.webp: \(32, 32\) pixels, expected 3200 x 3200"):
        Image(batch_size=5, root=tmp_path / "root", source=tmp_path).prepare_data()
    (place / "data_batch_1.webp").write_bytes(b"RIFFnonsense")
    with pytest.raises(DataError, match=r"data_batch_1\.webp: not a readable WebP picture"):
        Image(batch_size=5, root=tmp_path / "root", source=tmp_path).prepare_data()
    (place / "labels.npz").write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match=r"labels\.npz: not readable"):
        Image(batch_size=5, root=tmp_path / "root", source=tmp_path).prepare_data()


def test_official_is_never_a_substitute(tmp_path, monkeypatch):
    """Sprites with one lossy image are no official CIFAR-10, prepared or given."""
    place = tmp_path / "cifar10"
    place.mkdir()
    for name in ("labels.npz", *(f"{batch}.webp" for batch in image.BATCHES)):
        (place / name).write_bytes(b"something")
    monkeypatch.setenv("LRA_MIRROR", str(tmp_path))
    assert Image(batch_size=5, root=tmp_path / "root").origin().edition == "sprites"
    official = Image(batch_size=5, root=tmp_path / "root", source="official").origin()
    assert (official.edition, official.source) == ("official", image.CIFAR.file)
