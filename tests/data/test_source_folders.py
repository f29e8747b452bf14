"""Where a task's data is found, what is taken first, and what is refused."""

import gzip
import io
import tarfile

import numpy as np
import pytest

from data import download
from data.generators import listops as rules
from data.image import Image
from data.listops import ListOps
from data.pathfinder import Pathfinder
from data.prepared import DataError
from data.retrieval import Retrieval
from data.text import Text
from data.verify import verify
from helpers.official_folders import official_listops, official_pathfinder, ready

pytestmark = pytest.mark.usefixtures("no_mirror")


LEVELS = ("lra_release/lra_release/{}", "lra_release/{}", "{}", "")


@pytest.mark.parametrize("level", LEVELS)
def test_official_listops_is_found_at_every_level_and_read_exactly(small, tmp_path, level):
    official_listops(tmp_path / "given" / level.format("listops-1000"))
    task = ready(ListOps(batch_size=5, root=tmp_path / "root", source=tmp_path / "given"))
    assert task.kind == "official"
    assert task.counts == {"train": 30, "val": 10, "test": 10}
    made = rules.generate(50, seed=1)
    assert np.array_equal(task.opened.examples.x.numpy(), made.tokens)
    assert np.array_equal(task.opened.examples.y.numpy(), made.labels)
    verify(task)


def test_the_inner_tree_is_preferred_to_the_faulty_outer_one(small, tmp_path):
    outer = tmp_path / "lra_release"
    for place in (outer, outer / "lra_release"):
        official_pathfinder(place / "pathfinder128", 128)
    for broken in (outer / "pathfinder128").rglob("*.png"):
        broken.write_bytes(b"")
    for given in (tmp_path, outer):
        ready(Pathfinder(size=128, batch_size=2, root=tmp_path / "root", source=given))


def test_a_wrong_level_says_where_the_data_lies(small, tmp_path):
    place = official_listops(tmp_path / "downloads" / "old" / "stuff")
    with pytest.raises(DataError, match=f"wrong folder level, basic_train.tsv lies in {place}; point source there"):
        ListOps(batch_size=2, root=tmp_path / "root", source=tmp_path / "downloads").prepare_data()


def test_a_folder_without_the_data_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no data for text there"):
        Text(batch_size=2, root=tmp_path, source=tmp_path).prepare_data()
    with pytest.raises(DataError, match="no such folder"):
        Text(batch_size=2, root=tmp_path, source=tmp_path / "nowhere").prepare_data()
    with pytest.raises(DataError, match="text cannot be generated"):
        Text(batch_size=2, root=tmp_path, source="generated").prepare_data()


def test_auto_takes_the_mirror_then_what_was_fetched_or_prepared_then_generates(small, tmp_path, monkeypatch):
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


def test_official_data_that_cannot_serve_is_passed_over_by_auto_and_refused_by_name(small, tmp_path):
    place = official_listops(tmp_path / "listops")
    cut = {"batch_size": 2, "root": tmp_path / "root", "min_len": 5, "max_len": 64}
    with pytest.raises(DataError, match="max_len=64 would cut expressions of up to 1999 tokens"):
        ListOps(source=place, **cut).prepare_data()
    ready(ListOps(batch_size=2, root=tmp_path / "root", source=place))
    assert ready(ListOps(**cut)).kind == "generated"


def test_a_part_of_official_data_is_a_subset_and_always_the_same(small, tmp_path):
    place = official_listops(tmp_path / "listops")
    part, again, other, whole = (
        ready(ListOps(batch_size=2, root=tmp_path / "root", source=place, n_train=n, seed=s, data_seed=d))
        for n, s, d in ((8, 0, 0), (8, 1, 0), (8, 0, 1), (None, 0, 0))
    )
    assert (part.kind, whole.kind) == ("subset", "official")
    assert part.counts == {"train": 8, "val": 10, "test": 10}
    assert "drawn from the official splits: 8 train" in part.notes
    assert not any("drawn" in note for note in whole.notes)
    assert part.fingerprint == again.fingerprint != whole.fingerprint
    assert part.opened.index["train"].tolist() == [2, 4, 10, 11, 16, 21, 26, 28]
    assert other.opened.index["train"].tolist() == [1, 3, 7, 11, 15, 16, 21, 28]
    with pytest.raises(DataError, match="n_train=31: the official split has 30"):
        ListOps(batch_size=2, root=tmp_path / "root", source=place, n_train=31).prepare_data()


def test_prepared_data_of_other_files_is_not_silently_reused(small, tmp_path):
    place = official_listops(tmp_path / "listops")
    ready(ListOps(batch_size=2, root=tmp_path / "root", source=place))
    with (place / "basic_train.tsv").open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match="was prepared from other files"):
        ListOps(batch_size=2, root=tmp_path / "root", source=place).prepare_data()


@pytest.mark.parametrize("make", [Text, Retrieval, Image])
def test_without_network_and_data_one_line_names_address_size_and_alternative(make, tmp_path, monkeypatch):
    def unreachable(*arguments, **named):
        raise download.urllib.error.URLError("no network")

    monkeypatch.setattr(download.urllib.request, "urlopen", unreachable)
    with pytest.raises(DataError) as error:
        make(batch_size=2, root=tmp_path).prepare_data()
    said = str(error.value)
    assert said.startswith("https://")
    assert " MB) cannot be fetched: no network" in said
    assert "data.source or $LRA_MIRROR" in said
    assert "\n" not in said
    assert not list(tmp_path.rglob("*.npy"))


def test_the_archive_itself_will_do(small, tmp_path):
    official_listops(tmp_path / "tree" / "lra_release" / "lra_release" / "listops-1000")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.add(tmp_path / "tree" / "lra_release", "lra_release")
    (tmp_path / "mirror").mkdir()
    path = tmp_path / "mirror" / "lra_release.gz"
    path.write_bytes(gzip.compress(content.getvalue(), 1))
    assert ready(ListOps(batch_size=2, root=tmp_path / "root", source=tmp_path / "mirror")).kind == "official"
    # of what it was prepared from nothing is known that a folder could contradict
    assert ready(ListOps(batch_size=2, root=tmp_path / "root", source=tmp_path / "tree")).kind == "official"

    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match="cut off or damaged"):
        ListOps(batch_size=2, root=tmp_path / "other", source=tmp_path / "mirror").prepare_data()
    assert not [p for p in (tmp_path / "other").rglob("*") if p.is_file() and not p.name.endswith(".lock")]
