"""IMDB reviews: the same from every source, damage named in one line."""

import hashlib
import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import text
from data.prepared import DataError
from data.text import Text
from helpers.official_folders import ready, refused


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


def test_reviews_are_the_same_from_every_source(reviews, tmp_path, monkeypatch):
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


def test_validation_rule_decides_the_splits(reviews, tmp_path):
    given = {"batch_size": 2, "root": tmp_path / "root", "source": folder(tmp_path, reviews)}
    held, literature = (ready(Text(validation=rule, **given)) for rule in ("held_out", "test"))
    assert held.counts == {"train": 18, "val": 2, "test": 20}
    assert literature.counts == {"train": 20, "val": 20, "test": 20}
    assert literature.opened.index["val"].tolist() == literature.opened.index["test"].tolist() == list(range(20, 40))
    with pytest.raises(DataError, match="n_val=3: text has 2"):
        ready(Text(n_val=3, **given))


def test_rare_characters_are_unknown(reviews, tmp_path):
    task = ready(Text(batch_size=2, root=tmp_path / "root", source=folder(tmp_path, reviews)))
    vocabulary = task.opened.manifest["vocabulary"]
    assert {"\u00e9", "n"} < set(vocabulary)
    # "9" is in two of twenty training reviews, the "s" of "test" in none
    assert not {"9", "s"} & set(vocabulary)
    assert "\ufffd" in task.text(9)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: next(p.glob("train/pos/*")).unlink(), "9 train reviews of label 1, the release has 10; files are"),
        (lambda p: next(p.glob("test/neg/*")).write_bytes(b""), "empty file; hint: unpack"),
        (lambda p: next(p.glob("test/neg/*")).write_bytes(b"changed"), "SHA-256 of all texts is"),
        (lambda p: (p / "test" / "neg").rename(p / "test" / "negative"), "test/neg: missing; hint: unpack"),
    ],
)
def test_damaged_review_folder_is_one_line(reviews, tmp_path, damage, message):
    damage(folder(tmp_path, reviews) / "aclImdb")
    refused(Text, tmp_path, message)


def test_damaged_table_is_one_line(reviews, tmp_path):
    path = table(tmp_path / "imdb", reviews) / "imdb.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    refused(Text, tmp_path, r"imdb\.parquet: not a readable Parquet table")


def test_hugging_face_without_network_is_one_line(tmp_path, monkeypatch):
    import datasets

    def fails(*arguments, **named):
        raise ConnectionError("no network\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", fails)
    with pytest.raises(DataError, match=r"datasets could not load stanfordnlp/imdb \(no network\); hint: "):
        Text(batch_size=2, root=tmp_path, source="huggingface").prepare_data()
