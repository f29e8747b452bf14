"""Generated data: its checks find what is wrong, and an interrupted generation goes on."""

import pytest

from data import listops
from data.listops import ListOps
from data.pathfinder import Pathfinder
from data.prepared import DataError
from data.retrieval import Retrieval
from data.verify import check_arrays, check_duplicates, check_labels, verify
from helpers.official_folders import ready

pytestmark = pytest.mark.usefixtures("no_mirror")
COUNTS = {"n_train": 60, "n_val": 20, "n_test": 20}
LITTLE_LISTOPS = {"batch_size": 2, "source": "generated", "min_len": 5, "max_len": 60, **COUNTS}


def test_generated_listops_verifies_and_a_wrong_label_is_named(tmp_path):
    task = ready(ListOps(root=tmp_path, **LITTLE_LISTOPS))
    assert any("0 examples occur in two splits" in line for line in verify(task))
    task.opened.examples.y[7] = (task.opened.examples.y[7] + 1) % 10
    with pytest.raises(DataError, match="example 7 is labelled"):
        task.check(lambda n: None)


def test_generated_pathfinder_verifies_and_a_wrong_label_or_blank_image_is_named(tmp_path):
    made = {"root": tmp_path, "source": "generated", "n_train": 40, "n_val": 5, "n_test": 5, "size": 32}
    task = ready(Pathfinder(batch_size=2, **made))
    verify(task)
    # no label says both curves end on one pixel, which would bear out either
    task.opened.examples.y[7] = 1 - task.opened.examples.y[7]
    with pytest.raises(DataError, match="image 7 is labelled"):
        task.check(lambda n: None)
    task.opened.examples.x[3] = 0
    with pytest.raises(DataError, match="image 3 is blank"):
        task.check(lambda n: None)


def test_an_interrupted_generation_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    from data.generators import pathfinder

    made = {"source": "generated", "n_train": 700, "n_val": 5, "n_test": 5, "size": 16, "batch_size": 2}
    whole = ready(Pathfinder(root=tmp_path / "whole", **made))
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
    assert again.fingerprint == whole.fingerprint


def test_verify_names_a_flipped_byte(tmp_path):
    task = ready(ListOps(batch_size=2, root=tmp_path, source="toy"))
    path = task.folder("toy") / "x.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npy: content differs from its SHA-256"):
        verify(task)


def test_examples_in_two_splits_are_counted_and_refused_where_none_is_promised(tmp_path):
    task = ready(Pathfinder(batch_size=2, root=tmp_path, source="toy"))
    index = task.opened.index
    assert check_duplicates(task, lambda n: None) == "pathfinder: 0 examples occur in two splits"
    index["val"] = index["test"]
    assert check_duplicates(task, lambda n: None) == "pathfinder: 64 examples occur in two splits"
    task.selection_on_test = True
    assert check_duplicates(task, lambda n: None) == "pathfinder: 0 examples occur in two splits"
    index["train"] = index["test"]
    assert check_duplicates(task, lambda n: None) == "pathfinder: 64 examples occur in two splits"
    for split in ("val", "test"):
        toy = ready(ListOps(batch_size=2, root=tmp_path, source="toy"))
        made = ready(ListOps(root=tmp_path, **LITTLE_LISTOPS))
        for task in (toy, made):
            task.opened.index[split] = task.opened.index["train"][:1]
        assert check_duplicates(toy, lambda n: None)
        with pytest.raises(DataError, match=f"example 0 of {split} is example 0 of train"):
            verify(made)


def check_all(task) -> None:
    check_arrays(task)
    check_labels(task)


@pytest.mark.parametrize(
    ("make", "damage", "said"),
    [
        (ListOps, lambda examples: examples.y.__setitem__(3, 10), "example 3 has label 10, there are 10 classes"),
        (ListOps, lambda examples: examples.y.__setitem__(3, -1), "example 3 has label -1"),
        (ListOps, lambda examples: examples.x.__setitem__(5, 18), "token 18 occurs, the vocabulary has 18"),
        (ListOps, lambda examples: examples.offsets.__setitem__(3, examples.offsets[2]), "document 2 is empty"),
        (ListOps, lambda examples: examples.offsets.__setitem__(-1, len(examples.x) + 1), "offsets do not end where the tokens"),
        (ListOps, lambda examples: examples.offsets.__setitem__(0, 1), "offsets do not end where the tokens"),
        (Retrieval, lambda examples: examples.pairs.__setitem__((4, 1), len(examples.offsets) - 1), "a pair refers"),
        (Retrieval, lambda examples: examples.pairs.__setitem__((4, 1), -1), "a pair refers"),
        (Pathfinder, lambda examples: examples.y.fill_(0), "label 1 does not occur in 200 train examples"),
    ],
)
def test_arrays_that_cannot_be_are_named(make, damage, said, tmp_path):
    task = ready(make(batch_size=2, root=tmp_path, source="toy", n_train=200))
    check_all(task)
    damage(task.opened.examples)
    with pytest.raises(DataError, match=said):
        check_all(task)


def test_another_outcome_of_the_listops_rules_has_another_number(tmp_path):
    """Prepared data is found by the number of the rules: whoever changes what a seed yields must raise RULES."""
    task = ready(ListOps(root=tmp_path, **LITTLE_LISTOPS))
    assert (listops.RULES, task.fingerprint[:16]) == (1, "9deae819ef7b8779")
