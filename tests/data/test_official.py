"""Official files of ListOps, Pathfinder and Retrieval: read exactly, or refused in a line that names the place."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from data.datamodule import SPLITS
from data.listops import ListOps
from data.pathfinder import Pathfinder
from data.prepared import DataError
from data.retrieval import Retrieval
from helpers.official_folders import official_listops, official_pathfinder, official_retrieval, ready

pytestmark = pytest.mark.usefixtures("no_mirror")


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
    ("damage", "said"),
    [
        (lambda p: (p / "basic_val.tsv").unlink(), r"basic_val\.tsv: missing, though other files"),
        (lambda p: (p / "basic_val.tsv").write_bytes(b""), r"basic_val\.tsv: no bytes"),
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
def test_damaged_listops_files_are_one_line_that_names_the_place(small, tmp_path, damage, said):
    place = official_listops(tmp_path / "listops-1000")
    damage(place)
    with pytest.raises(DataError, match=said) as error:
        ListOps(batch_size=2, root=tmp_path / "root", source=tmp_path).prepare_data()
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "root").rglob("*.npy"))


def test_pathfinder_images_follow_the_numbers_of_their_lists(small, tmp_path):
    official_pathfinder(tmp_path / "pathfinder32")
    task = ready(Pathfinder(batch_size=2, root=tmp_path / "root", source=tmp_path, variant="lra"))
    assert task.opened.examples.x[:, 0].tolist() == list(range(20))
    assert task.opened.examples.y.tolist() == [0, 1] * 10
    assert task.opened.index["train"].tolist() == list(range(16))
    assert task.opened.index["test"].tolist() == [18, 19]


def test_the_s4_split_is_torchs_random_split_with_its_seed(small, tmp_path):
    official_pathfinder(tmp_path / "pathfinder32")
    task = ready(Pathfinder(batch_size=2, root=tmp_path / "root", source=tmp_path))
    parts = torch.utils.data.random_split(range(20), [16, 2, 2], generator=torch.Generator().manual_seed(42))
    assert [task.opened.index[s].tolist() for s in SPLITS] == [list(part.indices) for part in parts]


def _image(place: Path) -> Path:
    return place / "imgs" / "10" / "sample_3.png"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: _image(p).write_bytes(b""), r"sample_3\.png: an image of no bytes"),
        (lambda p: _image(p).write_bytes(_image(p).read_bytes()[:100]), r"sample_3\.png: not a readable PNG"),
        (lambda p: _image(p).write_bytes(b"GIF89a" + bytes(100)), r"sample_3\.png: not a readable PNG"),
        (lambda p: _image(p).unlink(), r"sample_3\.png: missing, though the metadata names it"),
        (lambda p: Pillow.new("L", (64, 64)).save(_image(p)), r"sample_3\.png: 64 x 64 pixels, expected 32 x 32"),
        (lambda p: (p / "metadata" / "2.npy").unlink(), r"10 images listed, the release has 20"),
        (lambda p: _replace(p / "metadata/2.npy", "imgs/2", "../../2"), r"2\.npy:1: '../../2/sample_0\.png' leads out"),
        (lambda p: _replace(p / "metadata/2.npy", "imgs/2", "/etc"), r"2\.npy:1: '/etc/sample_0\.png' leads out"),
        (lambda p: _replace(p / "metadata/2.npy", " 0 0 1.0", " 0 7 1.0"), r"2\.npy:1: expected folder, file, number"),
        (
            lambda p: np.save(p / "metadata/2.npy", np.array([["imgs/2", {}]], object), allow_pickle=True),
            r"2\.npy: not a list of images \(.*allow_pickle",
        ),
    ],
)
def test_damaged_pathfinder_files_are_one_line_that_names_the_file(small, tmp_path, damage, said):
    damage(official_pathfinder(tmp_path / "pathfinder32"))
    with pytest.raises(DataError, match=said) as error:
        Pathfinder(batch_size=2, root=tmp_path / "root", source=tmp_path).prepare_data()
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "root").rglob("*.npy"))


def test_lists_that_newer_generators_write_as_arrays_of_strings_are_read(small, tmp_path):
    place = official_pathfinder(tmp_path / "pathfinder32")
    path = place / "metadata" / "2.npy"
    rows = np.array([line.split() for line in path.read_text().splitlines()])
    with path.open("wb") as file:
        np.save(file, rows)
    task = ready(Pathfinder(batch_size=2, root=tmp_path / "root", source=tmp_path))
    assert task.opened.examples.x[:, 0].tolist() == list(range(20))


def test_retrieval_keeps_each_document_once_and_every_pair(small, tmp_path):
    place = official_retrieval(tmp_path / "tsv_data")
    task = ready(Retrieval(batch_size=3, root=tmp_path / "root", source=tmp_path, max_len=60))
    assert task.kind == "subset"
    assert "cut to 60 positions" in " ".join(task.notes)
    assert task.opened.manifest["documents"] == 6
    said = []
    for batch in task.test_dataloader():
        texts = [
            "".join(["", "?", "", *task.opened.manifest["vocabulary"]][i] for i in x[m].tolist())
            for x, m in zip(batch.x, batch.mask, strict=True)
        ]
        n = len(batch.y)
        said += [(y, a, b) for y, a, b in zip(batch.y.tolist(), texts[:n], texts[n:], strict=True)]
    rows = [line.split("\t") for line in (place / "new_aan_pairs.test.tsv").read_text().splitlines()]
    assert said == [(int(float(y)), a[:59], b[:59]) for y, _, _, a, b in rows]


def test_the_vocabulary_is_of_training_documents_alone(small, tmp_path):
    place = official_retrieval(tmp_path / "tsv_data")
    for split, letter in (("train", "ß"), ("eval", "ä"), ("test", "ö")):
        _replace(place / f"new_aan_pairs.{split}.tsv", "paper", f"p{letter}per")
    task = ready(Retrieval(batch_size=3, root=tmp_path / "root", source=tmp_path))
    assert set(task.opened.manifest["vocabulary"]) & set("ßäö") == {"ß"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("0.0\tA0", "0.5\tA0", r"train\.tsv:1: label '0\.5', expected 0\.0 or 1\.0"),
        ("\n", "", r"train\.tsv: 11 pairs, the release has 12; the file is cut off"),
        ("\tpaper 0: words and more words \t", "\t\t", r"train\.tsv:1: a document without text"),
        ("\tpaper 1: words and more words words and more words \n", "\t\n", r"train\.tsv:1: a document without text"),
        ("\tA0\t", " A0 ", r"train\.tsv:1: 3 columns, expected 5|train\.tsv:1: 4 columns, expected 5"),
    ],
)
def test_damaged_retrieval_files_are_one_line(small, tmp_path, old, new, said):
    place = official_retrieval(tmp_path / "tsv_data")
    _replace(place / "new_aan_pairs.train.tsv", old, new)
    with pytest.raises(DataError, match=said):
        Retrieval(batch_size=3, root=tmp_path / "root", source=tmp_path).prepare_data()
    assert not list((tmp_path / "root").rglob("*.npy"))
