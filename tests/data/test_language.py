"""Language modelling and density estimation: windows, vocabularies and trivial scores against slow definitions."""

import lzma
import math
from collections import Counter

import numpy as np
import pytest
import torch

from data import language
from data.image import Density
from data.language import Language
from data.prepared import DataError
from helpers.official_folders import ready
from lra.objectives.language import NO_TARGET

TEXTS = {
    "train": " = A title = \n the cat sat on the mat . \n \n the dog sat . ",
    "valid": " the bird sat on the dog . \n <unk> sat",
    "test": "the cat . \n the mat .",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small text in the files of WikiText-2, whose sizes are checked."""
    place = tmp_path / "given" / "wikitext-2"
    place.mkdir(parents=True)
    for name, text in TEXTS.items():
        (place / f"wiki.{name}.tokens").write_text(text)
    sizes = {"train": 19, "val": 11, "test": 8}
    monkeypatch.setitem(language.SIZES, "wikitext2", (40, sizes))
    return place.parent


def task(tmp_path, **arguments) -> Language:
    defaults = {"corpus": "wikitext2", "context": 4, "batch_size": 2, "root": tmp_path / "root", "name": "wikitext2"}
    return ready(Language(**{**defaults, **arguments}))


def words(text: str) -> list[str]:
    return [word for line in text.split("\n") for word in (*line.split(), "<eos>")]


def test_ids_follow_frequency_and_every_token_is_predicted_once(tmp_path, folder):
    found = task(tmp_path, source=str(folder))
    assert found.kind == "official"
    counts = Counter(words(TEXTS["train"]))
    expected = sorted(counts, key=lambda word: (-counts[word], word))
    assert found.words[: len(counts)] == expected
    assert found.words[len(counts) :] == ["<unk>"]
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        loader = {"val": found.val_dataloader, "test": found.test_dataloader}.get(split)
        if loader is None:
            batches = [found.opened.examples.gather(torch.from_numpy(found.opened.index["train"]), 4)]
        else:
            batches = list(loader())
        x, y, mask = (torch.cat([getattr(b, part) for b in batches]) for part in ("x", "y", "mask"))
        ids = [found.words.index(word) if word in counts else found.words.index("<unk>") for word in words(TEXTS[name])]
        n = len(ids) // 4 * 4 if split == "train" else len(ids)
        assert y[mask].tolist() == ids[:n]
        assert x[mask].tolist() == [0, *(i + 1 for i in ids[: n - 1])]
        assert (y[~mask] == NO_TARGET).all()
        assert not x[~mask].any()


def test_trivial_score_is_the_cross_entropy_of_training_frequencies(tmp_path, folder):
    found = task(tmp_path, source=str(folder), context=19)
    counts = Counter(words(TEXTS["train"]))
    test = [word if word in counts else "<unk>" for word in words(TEXTS["test"])]
    nats = -np.mean([math.log((counts[word] + 1) / (19 + found.spec.n_outputs)) for word in test])
    assert found.trivial_score("test") == pytest.approx(math.exp(nats))


def test_a_smaller_vocabulary_is_stated(tmp_path, folder):
    found = task(tmp_path, source=str(folder), vocabulary=5)
    assert len(found.words) == 5
    assert {"<unk>", "<eos>", "the"} < set(found.words)
    assert found.kind == "subset"
    assert any("5 most frequent words" in note for note in found.notes)


def test_encoding_and_decoding(tmp_path, folder):
    found = task(tmp_path, source=str(folder))
    assert found.decode(found.encode("the dog sat .")) == "the dog sat ."
    with pytest.raises(DataError, match="'zebra' is not one of the"):
        found.encode("the zebra")
    by_bytes = task(tmp_path, source=str(folder), level="byte")
    assert by_bytes.decode(by_bytes.encode("the zébra")) == "the zébra"
    assert by_bytes.spec.n_outputs == 256
    assert by_bytes.text(0) == "= A "


def test_other_files_than_the_release_are_refused(tmp_path, folder):
    (folder / "wikitext-2" / "wiki.test.tokens").write_text("the cat .")
    with pytest.raises(DataError, match="wikitext2: 4 words in test, the release has 8"):
        task(tmp_path, source=str(folder))
    (folder / "wikitext-2" / "wiki.test.tokens").write_text(TEXTS["test"])
    with pytest.raises(DataError, match="context=100: longer than the 19 training tokens"):
        task(tmp_path, source=str(folder), context=100)
    with pytest.raises(DataError, match="vocabulary=40: wikitext2 has 40 words"):
        task(tmp_path, vocabulary=40)


def test_without_the_training_text_the_validation_text_is_trained_on(tmp_path):
    place = tmp_path / "given" / "wikitext"
    place.mkdir(parents=True)
    for name in ("valid", "test"):
        (place / f"wikitext-2.{name}.txt.xz").write_bytes(lzma.compress(TEXTS[name].encode()))
    found = task(tmp_path, source=str(place.parent))
    assert found.kind == "subset"
    assert any("trained on the validation text" in note for note in found.notes)
    (place / "wikitext-2.test.txt.xz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="not a readable text"):
        task(tmp_path / "other", source=str(place.parent))


def test_the_toy_text_is_the_same_each_time(tmp_path):
    first, again = (task(tmp_path / name, source="toy", context=16) for name in "ab")
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != task(tmp_path, source="toy", context=16, data_seed=1).fingerprint


def test_pictures_are_predicted_value_by_value(tmp_path):
    found = ready(Density(root=tmp_path, source="toy", batch_size=4, size=8))
    batch = next(iter(found.test_dataloader()))
    stored = torch.from_numpy(found.opened.arrays["x"][found.opened.index["test"][: len(batch.y)]].copy()).long()
    assert torch.equal(batch.y, stored)
    assert torch.equal(batch.x[:, 1:], stored[:, :-1] + 1)
    assert not batch.x[:, 0].any()
    assert found.picture(stored[0].numpy()).shape == (8, 8, 3)
    frequencies = (np.bincount(found.opened.arrays["x"][found.opened.index["train"]].ravel(), minlength=256) + 1.0) / (
        64 * 192 + 256
    )
    expected = -np.log2(frequencies[found.opened.arrays["x"][found.opened.index["test"]]]).mean()
    assert found.trivial_score("test") == pytest.approx(expected)


def test_the_neighbour_score_is_a_table_of_pairs(tmp_path, folder):
    found = task(tmp_path, source=str(folder), context=5)
    train, test = (words(TEXTS[name]) for name in ("train", "test"))
    n, pairs = found.spec.n_outputs, Counter(zip([None, *train], train, strict=False))
    first = Counter([None, *train][:15])  # the last four words are no whole window
    pairs = Counter(list(zip([None, *train], train, strict=False))[:15])
    known = [word if word in first or word in set(train) else "<unk>" for word in test]
    nats = [
        -math.log((pairs[before, word] + 1) / (first[before] + n))
        for before, word in zip([None, *known], known, strict=False)
    ]
    assert found.neighbour_score("test", 1) == pytest.approx(math.exp(np.mean(nats)))
