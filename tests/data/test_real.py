"""Real data, if LRA_MIRROR names a folder with it."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from data.image import Image
from data.retrieval import Retrieval
from data.text import Text
from data.verify import check_arrays, check_duplicates, check_labels

MIRROR = os.environ.get("LRA_TESTS_MIRROR")  # LRA_MIRROR, see tests/conftest.py
GREY_TRAIN = "c1f336458257c2ccbfe9032fab554dbbd48196347f833c5b7a5d1fb0921e43f2"
GREY_TEST = "6af1aaf3e51818056a021d354a67b8957fae231e37278ad394303f1080075eab"


def needs(name: str):
    there = MIRROR is not None and (Path(MIRROR) / name).exists()
    return pytest.mark.skipif(not there, reason=f"needs {name} in the folder that LRA_MIRROR names")


@pytest.fixture(autouse=True)
def _mirror(monkeypatch):
    monkeypatch.setenv("LRA_MIRROR", MIRROR or "")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


def ready(task):
    task.prepare_data()
    task.setup()
    check_arrays(task)
    check_labels(task)
    return task


@needs("imdb/imdb.parquet")
@pytest.mark.slow
def test_imdb_is_the_release(root):
    task = ready(Text(batch_size=16, root=root))
    assert task.kind == "official"
    assert task.counts == {"train": 22_500, "val": 2_500, "test": 25_000}
    assert task.trivial_score("test") == 0.5
    assert len(task.opened.manifest["vocabulary"]) + 3 == task.spec.vocab_size == 135
    lengths = task.opened.examples.offsets.diff().numpy()
    assert (lengths.min(), lengths.max()) == (32, 13_704)
    unknown = (task.opened.examples.x.numpy() == 1).mean()
    assert unknown < 1e-4
    seen = [label for batch in task.test_dataloader() for label in batch.y.tolist()]
    assert len(seen) == 25_000


@needs("cifar10/labels.npz")
@pytest.mark.slow
def test_cifar_is_grey_to_the_bit(root):
    task = ready(Image(batch_size=50, root=root))
    assert task.counts == {"train": 45_000, "val": 5_000, "test": 10_000}
    x = task.opened.examples.x.numpy()
    assert hashlib.sha256(np.ascontiguousarray(x[:50_000])).hexdigest() == GREY_TRAIN
    assert hashlib.sha256(np.ascontiguousarray(x[50_000:])).hexdigest() == GREY_TEST
    assert task.kind == "subset"
    assert "109 of 60000 images (23 of them in test) come from JPEG copies" in task.notes
    assert check_duplicates(task, lambda n: None).startswith("image: 0 examples")
    values = (x[task.opened.index["train"]].astype(np.float32) - 122.6) / 61
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 1) < 0.05


@needs("aan/papers.parquet")
def test_acl_papers_are_a_marked_substitute(root):
    task = ready(Retrieval(batch_size=8, root=root))
    assert task.kind == "subset"
    assert "not comparable" in " ".join(task.notes)
    assert task.counts == {"train": 16_710, "val": 2_089, "test": 2_089}
    assert abs(task.trivial_score("test") - 0.5) < 0.02
    assert task.opened.manifest["documents"] < 1_700
    assert task.opened.manifest["unknown_share"] < 0.002
    batch = next(iter(task.train_dataloader()))
    assert batch.x.shape == (16, 4000)
