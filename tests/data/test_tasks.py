"""The tasks: what a batch and a record are told, and which arguments are refused."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from official import ready
from omegaconf import OmegaConf

from data.base import SPLITS, DataError
from data.image import Image
from data.listops import ListOps
from data.pathfinder import Pathfinder
from data.retrieval import Retrieval
from data.text import Text
from data.verify import statistics, verify

pytestmark = pytest.mark.usefixtures("no_mirror")
CONFIGS = sorted(Path(__file__).parents[2].glob("configs/task/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_task_file_yields_batches_of_its_specification(path, tmp_path):
    values = {"seed": 3, "data": {"root": str(tmp_path), "source": "toy"}, "task": OmegaConf.load(path)}
    task = instantiate(OmegaConf.create(values).task)
    spec = task.spec
    assert not list(tmp_path.iterdir()), "the constructor touched the disk"
    assert spec.name == task.name == path.stem
    assert task.seed == 3
    ready(task)
    assert task.kind == "toy"
    assert task.counts == dict.fromkeys(SPLITS, 64)
    for loader in (task.train_dataloader(), task.val_dataloader(), task.test_dataloader()):
        batch = next(iter(loader))
        documents = len(batch.y) * (2 if spec.paired else 1)
        assert batch.x.shape[:2] == batch.mask.shape
        assert batch.x.shape[0] == documents
        assert batch.x.shape[1] <= spec.max_len
        assert spec.ragged or batch.x.shape[1] == spec.max_len
        assert batch.mask[:, 0].all()
        assert not (batch.mask[:, 1:] & ~batch.mask[:, :-1]).any(), "real positions come first"
        assert 0 <= int(batch.y.min()) <= int(batch.y.max()) < spec.n_classes
        if spec.vocab_size is None:
            assert batch.x.shape[2:] == (spec.channels,)
            assert batch.x.dtype == torch.float32
        else:
            assert batch.x.dtype == torch.int64
            assert int(batch.x.max()) < spec.vocab_size
    labels = torch.cat([batch.y for batch in task.test_dataloader()]).tolist()
    assert len(labels) == 64
    assert task.majority("test") == Counter(labels).most_common(1)[0][1] / 64
    row = int(task.opened.index["test"][0])
    assert (task.text(row) is None) != (task.pixels(row) is None)
    assert str(tmp_path) not in json.dumps([task.fingerprint, task.notes])
    assert any("SHA-256" in line for line in verify(task))
    assert statistics(task)["kind"] == "toy"


@pytest.mark.parametrize("variant", ["s4", "lra"])
@pytest.mark.parametrize("make", [ListOps, Text, Retrieval, Image, Pathfinder])
def test_variants_share_examples_and_differ_in_input(make, variant, tmp_path):
    task = ready(make(batch_size=4, root=tmp_path, source="toy", variant=variant))
    (batch, *_) = task.test_dataloader()
    if make in (Image, Pathfinder):
        assert task.spec.vocab_size == (None if variant == "s4" else 256)
        assert batch.x.is_floating_point() == (variant == "s4")
    else:
        last = batch.x[torch.arange(len(batch.x)), batch.mask.sum(1) - 1]
        assert (last == task.eos).all() if variant == "s4" else task.eos is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda **k: ListOps(batch_size=0, **k), "batch_size=0: a whole number is needed, at least 1"),
        (lambda **k: ListOps(batch_size=2, n_train=0, **k), "n_train=0: a whole number is needed"),
        (lambda **k: ListOps(batch_size=2, n_train="many", **k), "n_train=many: a whole number is needed"),
        (lambda **k: ListOps(batch_size=2, max_len=-1, **k), "max_len=-1: a whole number is needed"),
        (lambda **k: Text(batch_size=2, max_len=0, **k), "max_len=0: a whole number is needed"),
        (lambda **k: Pathfinder(batch_size=2, size="big", **k), "size=big: a whole number is needed"),
        (lambda **k: ListOps(batch_size=2, variant="s5", **k), "variant='s5': s4 or lra"),
        (lambda **k: ListOps(batch_size=2, pad="wide", **k), "pad='wide': longest, max"),
        (lambda **k: ListOps(batch_size=2, resident="maybe", **k), "resident='maybe': true, false or auto"),
        (lambda **k: Text(batch_size=2, validation="train", **k), "validation='train': held_out or test"),
        (lambda **k: Pathfinder(batch_size=2, difficulty="cruel", **k), "difficulty='cruel': one of easy"),
        (lambda **k: Image(batch_size=2, size=31, **k), "size=31: 32, 16 or 8"),
    ],
)
def test_an_impossible_argument_is_one_line(make, said, tmp_path):
    with pytest.raises(DataError, match=said):
        make(root=tmp_path)


def test_a_batch_larger_than_the_training_split_is_one_line(tmp_path):
    task = ready(ListOps(batch_size=100, root=tmp_path, source="toy"))
    with pytest.raises(DataError, match="batch_size=100: more than the 64 training examples"):
        task.train_dataloader()


def test_setup_without_preparation_names_the_command(tmp_path):
    with pytest.raises(DataError, match=r"not prepared yet; python scripts/data\.py prepare task=listops"):
        ListOps(batch_size=2, root=tmp_path).setup()


def test_held_out_reviews_are_a_tenth_and_selection_on_test_is_marked(tmp_path):
    held, literature = (Text(batch_size=2, root=tmp_path, source="toy", validation=how) for how in ("held_out", "test"))
    parts = {"train": range(100), "test": range(100, 180)}
    split = held.split(parts, "official")
    assert len(split["val"]) == 10
    assert sorted([*split["train"], *split["val"]]) == list(range(100))
    assert split["test"].tolist() == list(range(100, 180))
    assert not held.selection_on_test
    split = literature.split(parts, "official")
    assert split["train"].tolist() == list(range(100))
    assert split["val"].tolist() == split["test"].tolist()
    assert literature.selection_on_test
    assert "the test split serves as validation" in " ".join(ready(literature).notes)
