"""The choice of a task's source: places, order, refusals."""

import tarfile

import numpy as np
import pytest

from data import download, image, text
from data.datamodule import TaskData
from data.generators import listops as generator
from data.image import Image
from data.listops import ListOps
from data.pathfinder import Pathfinder
from data.prepared import DataError
from data.retrieval import Retrieval
from data.text import Text
from data.verify import verify
from helpers.official_folders import official_listops, official_pathfinder, ready, refused

LEVELS = ("lra_release/lra_release/{}", "lra_release/{}", "{}", "")


@pytest.mark.parametrize("level", LEVELS)
def test_official_files_are_found_at_every_level(small, tmp_path, level):
    official_listops(tmp_path / "given" / level.format("listops-1000"))
    task = ready(ListOps(batch_size=5, root=tmp_path / "root", source=tmp_path / "given"))
    assert task.kind == "official"
    assert task.counts == {"train": 30, "val": 10, "test": 10}
    made = generator.generate(50, seed=1)
    assert np.array_equal(task.opened.examples.x.numpy(), made.tokens)
    assert np.array_equal(task.opened.examples.y.numpy(), made.labels)
    verify(task)


def test_inner_tree_is_preferred_to_the_faulty_one(small, tmp_path):
    outer = tmp_path / "lra_release"
    for place in (outer, outer / "lra_release"):
        official_pathfinder(place / "pathfinder128", 128)
    for broken in (outer / "pathfinder128").rglob("*.png"):
        broken.write_bytes(b"")
    for given in (tmp_path, outer):
        ready(Pathfinder(size=128, batch_size=2, root=tmp_path / "root", source=given))


def test_wrong_level_names_the_right_folder(small, tmp_path):
    place = official_listops(tmp_path / "downloads" / "old" / "stuff")
    refused(ListOps, tmp_path / "downloads", f"wrong folder level, basic_train.tsv is in {place}; hint: data.source=")


def test_folder_without_the_data_is_one_line(tmp_path):
    refused(Text, tmp_path, "no data for text there")
    refused(Text, tmp_path / "nowhere", "no such folder")
    refused(Text, tmp_path, "text cannot be generated", source="generated")


def test_auto_prefers_official_data(small, tmp_path, monkeypatch):
    root = tmp_path / "root"
    made = ready(ListOps(batch_size=2, root=root))
    assert made.kind == "generated"
    official_listops(tmp_path / "mirror" / "listops")
    monkeypatch.setenv("LRA_MIRROR", str(tmp_path / "mirror"))
    assert ready(ListOps(batch_size=2, root=root)).kind == "official"
    monkeypatch.delenv("LRA_MIRROR")
    assert ready(ListOps(batch_size=2, root=root)).kind == "official"
    assert ready(ListOps(batch_size=2, root=root, source="generated")).kind == "generated"
    official_listops(tmp_path / "other" / "raw" / "listops-1000")
    assert ready(ListOps(batch_size=2, root=tmp_path / "other")).kind == "official"
    monkeypatch.setenv("LRA_MIRROR", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"LRA_MIRROR=.*no such folder"):
        ListOps(batch_size=2, root=root).prepare_data()


def test_official_data_that_does_not_fit_is_not_used(small, tmp_path):
    place = official_listops(tmp_path / "listops")
    cut = {"batch_size": 2, "root": tmp_path / "root", "min_len": 5, "max_len": 64}
    with pytest.raises(DataError, match="max_len=64 would cut expressions of up to 1999 tokens"):
        ListOps(source=place, **cut).prepare_data()
    ready(ListOps(batch_size=2, root=tmp_path / "root", source=place))
    assert ready(ListOps(**cut)).kind == "generated"


def test_part_of_official_data_is_a_fixed_subset(small, tmp_path):
    place = official_listops(tmp_path / "listops")
    part, again, other, full = (
        ready(ListOps(batch_size=2, root=tmp_path / "root", source=place, n_train=n, seed=s, data_seed=d))
        for n, s, d in ((8, 0, 0), (8, 1, 0), (8, 0, 1), (None, 0, 0))
    )
    assert (part.kind, full.kind) == ("subset", "official")
    assert part.counts == {"train": 8, "val": 10, "test": 10}
    assert "drawn from the official splits: 8 train" in part.notes
    assert not any("drawn" in note for note in full.notes)
    assert part.fingerprint == again.fingerprint != full.fingerprint
    assert part.opened.index["train"].tolist() == [2, 4, 10, 11, 16, 21, 26, 28]
    assert other.opened.index["train"].tolist() == [1, 3, 7, 11, 15, 16, 21, 28]
    with pytest.raises(DataError, match="n_train=31: the official split has 30"):
        ListOps(batch_size=2, root=tmp_path / "root", source=place, n_train=31).prepare_data()


def test_prepared_data_of_other_files_is_not_reused(small, tmp_path):
    place = official_listops(tmp_path / "listops")
    ready(ListOps(batch_size=2, root=tmp_path / "root", source=place))
    with (place / "basic_train.tsv").open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match="was prepared from other files"):
        ListOps(batch_size=2, root=tmp_path / "root", source=place).prepare_data()


@pytest.mark.parametrize("make", [Text, Retrieval, Image])
def test_no_network_is_one_line_with_an_alternative(make, tmp_path, monkeypatch):
    def unreachable(*arguments, **named):
        raise download.urllib.error.URLError("no network")

    monkeypatch.setattr(download.urllib.request, "urlopen", unreachable)
    refused(make, tmp_path, r"^https://.* MB\) cannot be downloaded: no network.*\$LRA_MIRROR", source="auto")


def test_lra_archive_is_a_source(small, tmp_path):
    official_listops(tmp_path / "tree" / "lra_release" / "lra_release" / "listops-1000")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    path = mirror / "lra_release.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        tar.add(tmp_path / "tree" / "lra_release", "lra_release")
    assert ready(ListOps(batch_size=2, root=tmp_path / "root", source=mirror)).kind == "official"
    # the archive has no identity that could differ from the folder's
    assert ready(ListOps(batch_size=2, root=tmp_path / "root", source=tmp_path / "tree")).kind == "official"

    path.write_bytes(path.read_bytes()[:-1000])
    refused(ListOps, mirror, "cut off or damaged")
    assert not [p for p in (mirror / "root").rglob("*") if p.is_file() and not p.name.endswith(".lock")]


def test_lra_archive_is_no_source_for_other_tasks(tmp_path):
    """A task without official files does not take the archive for its own."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "lra_release.gz").write_bytes(b"")
    task = TaskData(batch_size=2, root=tmp_path, name="own")
    task.parameters = lambda edition: {}
    with pytest.raises(DataError, match="own has no official data"):
        task.prepare_data()


@pytest.mark.parametrize(("make", "archive"), [(Text, text.IMDB), (Image, image.CIFAR)])
def test_archive_of_another_size_is_not_opened(make, archive, tmp_path):
    (tmp_path / archive.file).write_bytes(b"something else")
    refused(make, tmp_path, f"14 bytes, the original has {archive.n_bytes}")
