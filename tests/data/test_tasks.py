"""The six tasks: where their data is found, what is refused, what a batch and a record are told."""

import gzip
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image as Pillow

from data import archive, listops, pathfinder, retrieval
from data import generate_listops as rules
from data.base import SPLITS, DataError
from data.image import Image
from data.listops import ListOps
from data.pathfinder import Pathfinder
from data.retrieval import Retrieval
from data.text import Text
from data.verify import statistics, verify

COUNTS = {"n_train": 60, "n_val": 20, "n_test": 20}
LITTLE_LISTOPS = {"batch_size": 2, "source": "generated", "min_len": 5, "max_len": 60, **COUNTS}
CONFIGS = sorted(Path(__file__).parents[2].glob("configs/task/*.yaml"))


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch):
    monkeypatch.delenv("LRA_MIRROR", raising=False)


@pytest.fixture
def small(monkeypatch):
    """Official sets of a handful of examples."""
    monkeypatch.setattr(listops, "COUNTS", {"train": 30, "val": 10, "test": 10})
    monkeypatch.setattr(retrieval, "COUNTS", {"train": 12, "val": 4, "test": 4})
    monkeypatch.setattr(pathfinder, "COUNTS", {"train": 16, "val": 2, "test": 2})
    monkeypatch.setattr(pathfinder, "IMAGES", 20)


def ready(task):
    task.prepare_data()
    task.setup()
    return task


def official_listops(place: Path) -> Path:
    place.mkdir(parents=True)
    made = rules.generate(50, seed=1)
    begin = 0
    for split, n in listops.COUNTS.items():
        lines = ["Source\tTarget"]
        for i in range(begin, begin + n):
            tokens = made.tokens[made.offsets[i] : made.offsets[i + 1]]
            lines.append(f"{rules.to_text(tokens, parentheses=True)}\t{made.labels[i]}")
        (place / f"basic_{split}.tsv").write_text("\n".join(lines) + "\n")
        begin += n
    return place


def official_pathfinder(place: Path, size: int = 32) -> Path:
    """20 images in two lists whose names sort otherwise as text than as numbers."""
    level = place / "curv_contour_length_14"
    (level / "metadata").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in (2, 10):
        (level / "imgs" / str(number)).mkdir(parents=True)
        lines = []
        for i in range(10):
            image = rng.integers(0, 255, (size, size), np.uint8)
            image[0, 0] = 10 * (number == 10) + i
            Pillow.fromarray(image).save(level / "imgs" / str(number) / f"sample_{i}.png")
            lines.append(f"imgs/{number} sample_{i}.png {i} {i % 2} 1.0 14 4 2 0.5 1 1")
        (level / "metadata" / f"{number}.npy").write_text("\n".join(lines) + "\n")
    return level


def official_retrieval(place: Path) -> Path:
    place.mkdir(parents=True)
    papers = [f"paper {i}: " + "words and more words " * (i + 1) for i in range(6)]
    for split, file in retrieval.FILES.items():
        rows = [(i % 2, i % 6, (i * i + 1) % 6) for i in range(retrieval.COUNTS[split])]
        lines = [f"{float(y)}\tA{a}\tA{b}\t{papers[a]}\t{papers[b]}" for y, a, b in rows]
        (place / f"new_aan_pairs.{file}.tsv").write_text("\n".join(lines) + "\n")
    return place


# -- every task -------------------------------------------------------------------------------------------------------


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


# -- sources ----------------------------------------------------------------------------------------------------------

LEVELS = ("lra_release/lra_release/{}", "lra_release/{}", "{}", "")


@pytest.mark.parametrize("level", LEVELS)
def test_official_listops_is_found_at_every_level_and_read_exactly(small, tmp_path, level):
    official_listops(tmp_path / "given" / level.format("listops-1000"))
    task = ready(ListOps(batch_size=5, root=tmp_path / "root", source=tmp_path / "given"))
    assert task.kind == "official"
    assert task.counts == {"train": 30, "val": 10, "test": 10}
    made = rules.generate(50, seed=1)
    assert np.array_equal(task.opened.pool.x.numpy(), made.tokens)
    assert np.array_equal(task.opened.pool.y.numpy(), made.labels)
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


def test_auto_takes_the_mirror_then_what_is_prepared_then_generates(small, tmp_path, monkeypatch):
    root = tmp_path / "root"
    made = ready(ListOps(batch_size=2, root=root))
    assert made.kind == "generated"
    official_listops(tmp_path / "mirror" / "listops")
    monkeypatch.setenv("LRA_MIRROR", str(tmp_path / "mirror"))
    assert ready(ListOps(batch_size=2, root=root)).kind == "official"
    monkeypatch.delenv("LRA_MIRROR")
    assert ready(ListOps(batch_size=2, root=root)).kind == "official"
    assert ready(ListOps(batch_size=2, root=root, source="generated")).kind == "generated"
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
    part, again, whole = (
        ready(ListOps(batch_size=2, root=tmp_path / "root", source=place, n_train=n, seed=s))
        for n, s in ((8, 0), (8, 1), (None, 0))
    )
    assert (part.kind, whole.kind) == ("subset", "official")
    assert part.counts == {"train": 8, "val": 10, "test": 10}
    assert "8 train" in " ".join(part.notes)
    assert part.fingerprint == again.fingerprint != whole.fingerprint
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
        raise archive.urllib.error.URLError("no network")

    monkeypatch.setattr(archive.urllib.request, "urlopen", unreachable)
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

    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match="cut off or damaged"):
        ListOps(batch_size=2, root=tmp_path / "other", source=tmp_path / "mirror").prepare_data()
    assert not [p for p in (tmp_path / "other").rglob("*") if p.is_file() and not p.name.endswith(".lock")]


# -- damaged official files -------------------------------------------------------------------------------------------


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


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
        (lambda p: _relabel(p / "basic_val.tsv", 4), r"basic_val\.tsv:4 is labelled \d, the expression is worth \d"),
        (
            lambda p: _replace(p / "basic_val.tsv", "]", "5"),
            r"basic_val\.tsv:2: position \d+: the expression ends inside",
        ),
        (lambda p: _replace(p / "basic_test.tsv", "\t", " "), r"basic_test\.tsv:1: header"),
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
    assert task.opened.pool.x[:, 0].tolist() == list(range(20))
    assert task.opened.pool.y.tolist() == [0, 1] * 10
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
    assert task.opened.pool.x[:, 0].tolist() == list(range(20))


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


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("0.0\tA0", "0.5\tA0", r"train\.tsv:1: label '0\.5', expected 0\.0 or 1\.0"),
        ("\tA0\t", " A0 ", r"train\.tsv:1: 3 columns, expected 5|train\.tsv:1: 4 columns, expected 5"),
    ],
)
def test_damaged_retrieval_files_are_one_line(small, tmp_path, old, new, said):
    place = official_retrieval(tmp_path / "tsv_data")
    _replace(place / "new_aan_pairs.train.tsv", old, new)
    with pytest.raises(DataError, match=said):
        Retrieval(batch_size=3, root=tmp_path / "root", source=tmp_path).prepare_data()
    assert not list((tmp_path / "root").rglob("*.npy"))


# -- generated data ---------------------------------------------------------------------------------------------------


def test_generated_listops_verifies_and_a_wrong_label_is_named(tmp_path):
    task = ready(ListOps(root=tmp_path, **LITTLE_LISTOPS))
    assert any("0 examples occur in two splits" in line for line in verify(task))
    task.opened.pool.y[7] = (task.opened.pool.y[7] + 1) % 10
    with pytest.raises(DataError, match="example 7 is labelled"):
        task.check(lambda n: None)


def test_generated_pathfinder_verifies_and_a_wrong_label_or_blank_image_is_named(tmp_path):
    made = {"root": tmp_path, "source": "generated", "n_train": 40, "n_val": 5, "n_test": 5, "size": 32}
    task = ready(Pathfinder(batch_size=2, **made))
    verify(task)
    # no label says both curves end on one pixel, which would bear out either
    task.opened.pool.y[7] = 1 - task.opened.pool.y[7]
    with pytest.raises(DataError, match="image 7 is labelled"):
        task.check(lambda n: None)
    task.opened.pool.x[3] = 0
    with pytest.raises(DataError, match="image 3 is blank"):
        task.check(lambda n: None)


def test_an_interrupted_generation_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    from data import generate_pathfinder

    made = {"source": "generated", "n_train": 700, "n_val": 5, "n_test": 5, "size": 16, "batch_size": 2}
    whole = ready(Pathfinder(root=tmp_path / "whole", **made))
    draw, starts = generate_pathfinder.generate, []

    def stops(n, **named):
        starts.append(named["start"])
        if len(starts) == 3:
            raise KeyboardInterrupt
        return draw(n, **named)

    monkeypatch.setattr(generate_pathfinder, "generate", stops)
    monkeypatch.setattr(pathfinder, "CHUNK_BYTES", 0)  # chunks of 256
    with pytest.raises(KeyboardInterrupt):
        Pathfinder(root=tmp_path / "broken", **made).prepare_data()
    again = ready(Pathfinder(root=tmp_path / "broken", **made))
    assert starts == [0, 256, 512, 512]
    assert again.fingerprint == whole.fingerprint


def test_verify_names_a_flipped_byte_and_an_example_in_two_splits(tmp_path):
    task = ready(ListOps(batch_size=2, root=tmp_path, source="toy"))
    path = task.folder("toy") / "x.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npy: content differs from its SHA-256"):
        verify(task)

    other = ready(ListOps(root=tmp_path, **LITTLE_LISTOPS))
    other.opened.index["test"] = other.opened.index["train"][:1]
    with pytest.raises(DataError, match="example 0 of test is example 0 of train"):
        verify(other)


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


def test_another_outcome_of_the_listops_rules_has_another_number(tmp_path):
    """Prepared data is found by the number of the rules: whoever changes what a seed yields must raise RULES."""
    task = ready(ListOps(root=tmp_path, **LITTLE_LISTOPS))
    assert (listops.RULES, task.fingerprint[:16]) == (1, "9deae819ef7b8779")
