"""Generated data: checks find errors, an interrupted generation resumes."""

import pytest

from data import listops
from data.listops import ListOps
from data.pathfinder import Pathfinder
from data.prepared import DataError
from data.retrieval import Retrieval
from data.verify import check_duplicates, verify
from helpers.official_folders import ready

COUNTS = {"n_train": 60, "n_val": 20, "n_test": 20}
LITTLE_LISTOPS = {"batch_size": 2, "source": "generated", "min_len": 5, "max_len": 60, **COUNTS}


def test_wrong_listops_label_is_named(tmp_path):
    task = ready(ListOps(root=tmp_path, **LITTLE_LISTOPS))
    assert any("0 examples occur in two splits" in line for line in verify(task))
    task.opened.examples.y[7] = (task.opened.examples.y[7] + 1) % 10
    with pytest.raises(DataError, match="example 7 is labelled"):
        task.check(lambda n: None)


def test_wrong_pathfinder_label_or_image_is_named(tmp_path):
    made = {"root": tmp_path, "source": "generated", "n_train": 40, "n_val": 5, "n_test": 5, "size": 32}
    task = ready(Pathfinder(batch_size=2, **made))
    verify(task)
    task.opened.examples.y[7] = 1 - task.opened.examples.y[7]
    with pytest.raises(DataError, match="image 7 is labelled"):
        task.check(lambda n: None)
    task.opened.examples.x[3] = 0
    with pytest.raises(DataError, match="image 3 is blank"):
        task.check(lambda n: None)


def test_interrupted_generation_resumes_exactly(tmp_path, monkeypatch):
    from data.generators import pathfinder

    made = {"source": "generated", "n_train": 700, "n_val": 5, "n_test": 5, "size": 16, "batch_size": 2}
    uninterrupted = ready(Pathfinder(root=tmp_path / "uninterrupted", **made))
    draw, starts = pathfinder.generate, []

    def stops(*args, **named):
        starts.append(named["start"])
        if len(starts) == 3:
            raise KeyboardInterrupt
        return draw(*args, **named)

    monkeypatch.setattr(pathfinder, "generate", stops)
    monkeypatch.setattr("data.pathfinder.CHUNK_BYTES", 0)  # chunks of 256
    with pytest.raises(KeyboardInterrupt):
        Pathfinder(root=tmp_path / "broken", **made).prepare_data()
    again = ready(Pathfinder(root=tmp_path / "broken", **made))
    assert starts == [0, 256, 512, 512]
    assert again.fingerprint == uninterrupted.fingerprint


def test_verify_names_a_flipped_byte(tmp_path):
    task = ready(ListOps(batch_size=2, root=tmp_path, source="toy"))
    path = task.folder("toy") / "x.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npy: content differs from its SHA-256"):
        verify(task)


def test_duplicates_are_counted_or_refused(tmp_path):
    task = ready(Pathfinder(batch_size=2, root=tmp_path, source="toy"))
    index = task.opened.index
    assert check_duplicates(task, lambda n: None) == "pathfinder: 0 examples occur in two splits"
    index["val"] = index["test"]
    assert check_duplicates(task, lambda n: None).startswith("pathfinder: 64 examples occur in two splits (64 of ")
    task.selection_on_test = True
    assert check_duplicates(task, lambda n: None) == "pathfinder: 0 examples occur in two splits"
    index["train"] = index["test"]
    assert check_duplicates(task, lambda n: None).startswith("pathfinder: 64 examples occur in two splits (64 of ")
    for split in ("val", "test"):
        toy = ready(ListOps(batch_size=2, root=tmp_path, source="toy"))
        made = ready(ListOps(root=tmp_path, **LITTLE_LISTOPS))
        for task in (toy, made):
            task.opened.index[split] = task.opened.index["train"][:1]
        assert check_duplicates(toy, lambda n: None)
        with pytest.raises(DataError, match=f"example 0 of {split} is example 0 of train"):
            verify(made)


@pytest.mark.parametrize(
    ("make", "damage", "message"),
    [
        (ListOps, lambda e: e.y.__setitem__(3, 10), "example 3 has label 10, there are 10 classes"),
        (ListOps, lambda e: e.y.__setitem__(3, -1), "example 3 has label -1"),
        (ListOps, lambda e: e.x.__setitem__(5, 18), "token 18 occurs, the vocabulary has 18"),
        (ListOps, lambda e: e.offsets.__setitem__(3, e.offsets[2]), "document 2 is empty"),
        (
            ListOps,
            lambda e: e.offsets.__setitem__(-1, len(e.x) + 1),
            "offsets do not end where the tokens",
        ),
        (ListOps, lambda e: e.offsets.__setitem__(0, 1), "offsets do not end where the tokens"),
        (Retrieval, lambda e: e.pairs.__setitem__((4, 1), len(e.offsets) - 1), "a pair refers"),
        (Retrieval, lambda e: e.pairs.__setitem__((4, 1), -1), "a pair refers"),
        (Pathfinder, lambda e: e.y.fill_(0), "label 1 does not occur in 200 train examples"),
    ],
)
def test_wrong_array_is_named(make, damage, message, tmp_path):
    task = ready(make(batch_size=2, root=tmp_path, source="toy", n_train=200))
    damage(task.opened.examples)
    with pytest.raises(DataError, match=message):
        verify(task)


def test_listops_rules_number_fits_the_output(tmp_path):
    """Prepared folders are named after RULES: raise it with every change of what a seed gives."""
    task = ready(ListOps(root=tmp_path, **LITTLE_LISTOPS))
    assert (listops.RULES, task.fingerprint[:16]) == (1, "9deae819ef7b8779")
