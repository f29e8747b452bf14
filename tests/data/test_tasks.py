"""The tasks: batches, specification, record entries, refused arguments."""

import json
from collections import Counter
from functools import partial

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from data import image, listops, pathfinder, retrieval, text
from data.datamodule import SPLITS
from data.generators.listops import from_text
from data.image import Image
from data.listops import ListOps
from data.pathfinder import Pathfinder
from data.prepared import DataError
from data.retrieval import Retrieval
from data.text import Text
from data.verify import statistics, verify
from helpers.official_folders import ready
from lra.paths import ROOT

CONFIGS = sorted(ROOT.glob("configs/task/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_task_file_gives_batches_of_its_spec(path, tmp_path):
    values = {"seed": 3, "data": {"root": str(tmp_path), "source": "toy"}, "task": OmegaConf.load(path)}
    for split in SPLITS:
        values["task"][f"n_{split}"] = 64
    task = instantiate(OmegaConf.create(values).task)
    spec = task.spec
    assert not list(tmp_path.iterdir()), "the constructor touched the disk"
    assert spec.name == task.name
    assert task.name.partition("-")[0] == path.stem
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
        assert not (batch.mask[:, 1:] & ~batch.mask[:, :-1]).any(), "padding before a real position"
        assert batch.y.shape[1:] == spec.random_targets(2).shape[1:]
        assert batch.y.dtype == spec.random_targets(2).dtype
        if spec.vocab_size is None:
            assert batch.x.shape[2:] == (spec.width,)
            assert batch.x.dtype == torch.float32
        else:
            assert batch.x.dtype == torch.int64
            assert int(batch.x.max()) < spec.vocab_size
    targets = torch.cat([batch.y for batch in task.test_dataloader()])
    assert len(targets) == 64
    assert task.trivial_score("test") > 0
    if spec.objective == "classification":
        assert 0 <= int(targets.min()) <= int(targets.max()) < spec.n_outputs
        assert task.trivial_score("test") == Counter(targets.tolist()).most_common(1)[0][1] / 64
    row = int(task.opened.index["test"][0])
    assert (task.text(row) is None) != (task.pixels(row) is None)
    assert str(tmp_path) not in json.dumps([task.fingerprint, task.notes])
    assert any("SHA-256" in line for line in verify(task))
    assert statistics(task)["kind"] == "toy"


@pytest.mark.parametrize(
    ("make", "s4", "lra"),
    [
        # positions, classes, tokens, two documents
        (ListOps, (2048, 10, 18, False), (2000, 10, 18, False)),
        (Text, (4096, 2, 135, False), (4000, 2, 256, False)),
        (Retrieval, (4000, 2, 98, True), (4000, 2, 256, True)),
        (Image, (1024, 10, None, False), (1024, 10, 256, False)),
        (Pathfinder, (1024, 2, None, False), (1024, 2, 256, False)),
        (partial(Pathfinder, size=128), (16_384, 2, None, False), (16_384, 2, 256, False)),
    ],
)
def test_specs_are_those_of_the_benchmark(make, s4, lra):
    for variant, expected in (("s4", s4), ("lra", lra)):
        spec = make(batch_size=2, variant=variant).spec
        assert (spec.max_len, spec.n_outputs, spec.vocab_size, spec.paired) == expected


def test_files_and_sizes_are_those_of_the_release():
    inner = "lra_release/lra_release/"
    assert Pathfinder(batch_size=2, size=128).archive_folder == inner + "pathfinder128/curv_contour_length_14"
    assert listops.COUNTS == {"train": 96_000, "val": 2_000, "test": 2_000}
    assert retrieval.COUNTS == {"train": 147_086, "val": 18_090, "test": 17_437}
    assert (pathfinder.IMAGES, text.N, image.TRAIN, image.TEST) == (200_000, 25_000, 50_000, 10_000)


@pytest.mark.parametrize("variant", ["s4", "lra"])
@pytest.mark.parametrize("make", [ListOps, Text, Retrieval, Image, Pathfinder])
def test_variant_decides_the_input(make, variant, tmp_path):
    task = ready(make(batch_size=4, root=tmp_path, source="toy", variant=variant))
    (batch, *_) = task.test_dataloader()
    if make in (Image, Pathfinder):
        assert task.spec.vocab_size == (None if variant == "s4" else 256)
        assert batch.x.is_floating_point() == (variant == "s4")
    else:
        last = batch.x[torch.arange(len(batch.x)), batch.mask.sum(1) - 1]
        assert (last == task.eos).all() if variant == "s4" else task.eos is None


def test_loaders_give_their_own_split(tmp_path):
    orders = []  # of training examples, which the seed decides
    for seed in (0, 1):
        task = ready(ListOps(batch_size=4, root=tmp_path, source="toy", seed=seed))
        loaded, stored = {}, {}
        for split in SPLITS:
            batches = getattr(task, f"{split}_dataloader")()
            loaded[split] = [x[m].tolist() for b in batches for x, m in zip(b.x, b.mask, strict=True)]
            stored[split] = [[*from_text(task.text(row)), task.eos] for row in task.opened.index[split]]
        orders.append(loaded.pop("train"))
        assert sorted(orders[-1]) == sorted(stored.pop("train"))
        assert loaded == stored
    assert orders[0] != orders[1]


@pytest.mark.parametrize("length_aware", [False, True])
def test_length_aware_batches_are_for_training(length_aware, tmp_path):
    task = ready(ListOps(batch_size=4, root=tmp_path, source="toy", length_aware=length_aware))
    assert [getattr(task, f"{split}_dataloader")().length_aware for split in SPLITS] == [length_aware, False, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda **k: ListOps(batch_size=0, **k), "batch_size=0: a whole number is needed, at least 1"),
        (lambda **k: ListOps(batch_size=2, n_train=0, **k), "n_train=0: a whole number is needed"),
        (lambda **k: ListOps(batch_size=2, n_train="many", **k), "n_train=many: a whole number is needed"),
        (lambda **k: ListOps(batch_size=2, max_len=-1, **k), "max_len=-1: a whole number is needed"),
        (lambda **k: Text(batch_size=2, max_len=0, **k), "max_len=0: a whole number is needed"),
        (lambda **k: Pathfinder(batch_size=2, size="big", **k), "size=big: a whole number is needed"),
        (lambda **k: ListOps(batch_size=2, variant="s5", **k), "variant='s5': s4 or lra"),
        (lambda **k: ListOps(batch_size=2, pad="wide", **k), "pad='wide': longest, max"),
        (lambda **k: ListOps(batch_size=2, resident="maybe", **k), "resident='maybe': True, False or auto"),
        (lambda **k: Text(batch_size=2, validation="train", **k), "validation='train': held_out or test"),
        (
            lambda **k: Pathfinder(batch_size=2, difficulty="cruel", **k),
            "difficulty='cruel': easy, inter",
        ),
        (lambda **k: Image(batch_size=2, size=31, **k), "size=31: 32, 16 or 8"),
    ],
)
def test_wrong_argument_is_one_line(make, message, tmp_path):
    with pytest.raises(DataError, match=f"^{message}"):
        make(root=tmp_path)


def test_batch_larger_than_the_split_is_one_line(tmp_path):
    task = ready(ListOps(batch_size=100, root=tmp_path, source="toy"))
    with pytest.raises(DataError, match="batch_size=100: more than the 64 training examples"):
        task.train_dataloader()


@pytest.mark.parametrize(("variant", "least"), [("s4", 2000), ("lra", 1999)])
def test_official_expressions_are_never_cut(variant, least, tmp_path):
    def mismatch(**changed):
        return ListOps(batch_size=2, root=tmp_path, variant=variant, **changed).mismatch("official")

    assert mismatch() is mismatch(max_len=least) is mismatch(n_test=2000) is None
    assert f"max_len={least - 1} would cut" in mismatch(max_len=least - 1)
    assert "n_test=2001: the official split has 2000" in mismatch(n_test=2001)
    for other in ({"min_len": 499}, {"max_args": 9}, {"max_depth": 11}):
        assert "not those of the official data" in mismatch(**other)


def test_setup_before_preparation_names_the_command(tmp_path):
    with pytest.raises(DataError, match=r"hint: python scripts/prepare_data\.py prepare task=listops"):
        ListOps(batch_size=2, root=tmp_path).setup()


@pytest.mark.parametrize("ends", [[0, 65], [-1, 64]])
def test_parts_outside_the_arrays_are_refused(ends, tmp_path):
    made = {"batch_size": 2, "root": tmp_path, "source": "toy", "n_train": 32, "n_val": 16, "n_test": 16}
    path = ready(ListOps(**made)).folder("toy") / "manifest.json"
    content = json.loads(path.read_text())
    content["parts"]["test"] = ends
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="reach past 64 examples; hint: delete"):
        ListOps(**made).setup()


def test_held_out_reviews_are_a_tenth(tmp_path):
    held, literature = (Text(batch_size=2, root=tmp_path, source="toy", validation=how) for how in ("held_out", "test"))
    parts = {"train": range(100), "test": range(100, 180)}
    split = held.split(parts, "official")
    assert split["val"].tolist() == [14, 20, 31, 39, 48, 56, 69, 70, 75, 87]
    other = Text(batch_size=2, root=tmp_path, source="toy", data_seed=1).split(parts, "official")
    assert len(split["val"]) == len(other["val"]) == 10
    assert split["val"].tolist() != other["val"].tolist()
    assert sorted([*split["train"], *split["val"]]) == list(range(100))
    assert split["test"].tolist() == list(range(100, 180))
    assert not held.selection_on_test
    split = literature.split(parts, "official")
    assert split["train"].tolist() == list(range(100))
    assert split["val"].tolist() == split["test"].tolist()
    assert literature.selection_on_test
    assert "the test split serves as validation" in " ".join(ready(literature).notes)
