"""Official files of ListOps, Pathfinder and Retrieval: read exactly, or refused in one line that names the place."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image as Pillow

from data.datamodule import SPLITS
from data.listops import ListOps
from data.pathfinder import Pathfinder
from data.retrieval import Retrieval
from helpers.official_folders import official_listops, official_pathfinder, official_retrieval, ready, refused


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _label(path: Path, label: str) -> None:
    path.write_text(re.sub(r"\t\d", label, path.read_text(), count=1))


def _relabel(path: Path, line: int) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1] = lines[line - 1][:-1] + str((int(lines[line - 1][-1]) + 1) % 10)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "basic_val.tsv").unlink(), r"basic_val\.tsv: missing, though other files"),
        (lambda p: (p / "basic_val.tsv").write_bytes(b""), r"basic_val\.tsv: empty file"),
        (lambda p: _replace(p / "basic_train.tsv", "Source\t", "source\t"), r"basic_train\.tsv:1: header"),
        (lambda p: _replace(p / "basic_train.tsv", "[M", "[Q"), r"basic_train\.tsv:\d+: position \d+: token '\[Q"),
        (lambda p: _relabel(p / "basic_val.tsv", 2), r"basic_val\.tsv:2 is labelled \d, the expression is worth \d"),
        (lambda p: _relabel(p / "basic_test.tsv", 4), r"basic_test\.tsv:4 is labelled \d, the expression is worth"),
        (
            lambda p: _replace(p / "basic_val.tsv", "]", "5"),
            r"basic_val\.tsv:2: position \d+: the expression ends inside",
        ),
        (lambda p: _replace(p / "basic_test.tsv", "\t", " "), r"basic_test\.tsv:1: header"),
        (lambda p: _label(p / "basic_test.tsv", "\tx"), r"basic_test\.tsv:2: expected 'expression<tab>digit'"),
        (lambda p: _label(p / "basic_test.tsv", ""), r"basic_test\.tsv:2: expected 'expression<tab>digit'"),
        (
            lambda p: (p / "basic_test.tsv").write_bytes((p / "basic_test.tsv").read_bytes()[:-1000]),
            r"basic_test\.tsv:11: expected 'expression<tab>digit'",
        ),
        (
            lambda p: (p / "basic_val.tsv").write_text(
                "".join((p / "basic_val.tsv").read_text().splitlines(keepends=True)[:-1])
            ),
            r"basic_val\.tsv: 9 examples, the release has 10; the file is cut off",
        ),
    ],
)
def test_damaged_listops_file_is_named(small, tmp_path, damage, message):
    place = official_listops(tmp_path / "listops-1000")
    damage(place)
    refused(ListOps, tmp_path, message)


def test_pathfinder_lists_are_read_in_number_order(small, tmp_path):
    official_pathfinder(tmp_path / "pathfinder32")
    task = ready(Pathfinder(batch_size=2, root=tmp_path / "root", source=tmp_path, variant="lra"))
    assert task.opened.examples.x[:, 0].tolist() == list(range(20))
    assert task.opened.examples.y.tolist() == [0, 1] * 10
    assert task.opened.index["train"].tolist() == list(range(16))
    assert task.opened.index["test"].tolist() == [18, 19]


def test_s4_split_is_torchs_random_split(small, tmp_path):
    official_pathfinder(tmp_path / "pathfinder32")
    task = ready(Pathfinder(batch_size=2, root=tmp_path / "root", source=tmp_path))
    parts = torch.utils.data.random_split(range(20), [16, 2, 2], generator=torch.Generator().manual_seed(42))
    assert [task.opened.index[s].tolist() for s in SPLITS] == [list(part.indices) for part in parts]


def _image(place: Path) -> Path:
    return place / "imgs" / "10" / "sample_3.png"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: _image(p).write_bytes(b""), r"sample_3\.png: empty file"),
        (lambda p: _image(p).write_bytes(_image(p).read_bytes()[:100]), r"sample_3\.png: not a readable PNG"),
        (lambda p: _image(p).write_bytes(b"GIF89a" + bytes(100)), r"sample_3\.png: not a readable PNG"),
        (lambda p: _image(p).unlink(), r"sample_3\.png: missing, though the metadata lists it"),
        (lambda p: Pillow.new("L", (64, 64)).save(_image(p)), r"sample_3\.png: 64 x 64 pixels, expected 32 x 32"),
        (lambda p: (p / "metadata/2.npy").unlink(), r"10 images listed, the release has 20"),
        (
            lambda p: _replace(p / "metadata/2.npy", "imgs/2", "../../2"),
            r"npy:1: '../../2/sample_0\.png' is outside",
        ),
        (lambda p: _replace(p / "metadata/2.npy", "imgs/2", "/etc"), r"2\.npy:1: '/etc/sample_0\.png' is outside"),
        (lambda p: _replace(p / "metadata/2.npy", " 0 0 1.0", " 0 7 1.0"), r"2\.npy:1: expected folder, file, number"),
        (
            lambda p: np.save(p / "metadata/2.npy", np.array([["imgs/2", {}]], object), allow_pickle=True),
            r"2\.npy: not a list of images \(.*allow_pickle",
        ),
    ],
)
def test_damaged_pathfinder_file_is_named(small, tmp_path, damage, message):
    damage(official_pathfinder(tmp_path / "pathfinder32"))
    refused(Pathfinder, tmp_path, message)


def test_pathfinder_lists_may_be_string_arrays(small, tmp_path):
    place = official_pathfinder(tmp_path / "pathfinder32")
    path = place / "metadata" / "2.npy"
    rows = np.array([line.split() for line in path.read_text().splitlines()])
    with path.open("wb") as file:
        np.save(file, rows)
    task = ready(Pathfinder(batch_size=2, root=tmp_path / "root", source=tmp_path))
    assert task.opened.examples.x[:, 0].tolist() == list(range(20))


def test_retrieval_stores_each_document_once(small, tmp_path):
    place = official_retrieval(tmp_path / "tsv_data")
    task = ready(Retrieval(batch_size=3, root=tmp_path / "root", source=tmp_path, max_len=60))
    assert task.kind == "subset"
    assert "cut to 60 positions" in " ".join(task.notes)
    assert task.opened.manifest["documents"] == 6
    found = []
    for batch in task.test_dataloader():
        texts = [
            "".join(["", "?", "", *task.opened.manifest["vocabulary"]][i] for i in x[m].tolist())
            for x, m in zip(batch.x, batch.mask, strict=True)
        ]
        n = len(batch.y)
        found += [(y, a, b) for y, a, b in zip(batch.y.tolist(), texts[:n], texts[n:], strict=True)]
    rows = [line.split("\t") for line in (place / "new_aan_pairs.test.tsv").read_text().splitlines()]
    assert found == [(int(float(y)), a[:59], b[:59]) for y, _, _, a, b in rows]


def test_vocabulary_is_of_training_documents(small, tmp_path):
    place = official_retrieval(tmp_path / "tsv_data")
    for split, letter in (("train", "ß"), ("eval", "ä"), ("test", "ö")):
        _replace(place / f"new_aan_pairs.{split}.tsv", "paper", f"p{letter}per")
    task = ready(Retrieval(batch_size=3, root=tmp_path / "root", source=tmp_path))
    assert set(task.opened.manifest["vocabulary"]) & set("ßäö") == {"ß"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.0\tA0", "0.5\tA0", r"train\.tsv:1: label '0\.5', expected 0\.0 or 1\.0"),
        ("\n", "", r"train\.tsv: 11 pairs, the release has 12; the file is cut off"),
        ("\tpaper 0: words and more words \t", "\t\t", r"train\.tsv:1: a document without text"),
        ("\tpaper 1: words and more words words and more words \n", "\t\n", r"train\.tsv:1: a document without text"),
        ("\tA0\t", " A0 ", r"train\.tsv:1: 3 columns, expected 5|train\.tsv:1: 4 columns, expected 5"),
    ],
)
def test_damaged_retrieval_file_is_named(small, tmp_path, old, new, message):
    place = official_retrieval(tmp_path / "tsv_data")
    _replace(place / "new_aan_pairs.train.tsv", old, new)
    refused(Retrieval, tmp_path, message)


def test_acl_substitute_is_read_and_marked(tmp_path):
    place = tmp_path / "aan"
    place.mkdir()
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": ["first", "second", "third"]}), place / "papers.parquet")
    for split, line in (("train", "1\ta\tb"), ("eval", "0\tb\tc"), ("test", "0.0\tc\ta")):
        (place / f"pairs.{split}.tsv").write_text(line + "\n")
    task = ready(Retrieval(batch_size=1, root=tmp_path / "prepared", source=tmp_path, variant="lra"))
    assert task.kind == "subset"
    assert "not comparable with published ones" in " ".join(task.notes)
    assert [task.text(row) for row in range(3)] == ["first\n--\nsecond", "second\n--\nthird", "third\n--\nfirst"]
    assert task.opened.examples.y.tolist() == [1, 0, 0]
    assert [task.opened.index[split].tolist() for split in SPLITS] == [[0], [1], [2]]
    (place / "pairs.test.tsv").write_text("0\tc\tunknown\n")
    message = r"pairs\.test\.tsv:1: no text of paper 'unknown' in papers\.parquet"
    refused(Retrieval, tmp_path, message)
