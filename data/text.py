"""Text: is a film review favourable? Read character by character, two classes.

The Large Movie Review Dataset v1.0 (Maas et al. 2011), 25,000 reviews to train on and 25,000 to test. Variants: "s4",
the default, reads characters of a vocabulary of 135 and puts an end token last, 4096 positions; "lra" reads UTF-8
bytes, 4000 positions.
"""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data import download, tokenizer
from data.datamodule import SPLITS, DataError, Origin, Pool, TaskData, whole
from data.download import Archive
from data.source_folders import find_folder
from lra.console import bar
from lra.task import TaskSpec

IMDB = Archive(
    "aclImdb_v1.tar.gz",
    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    84_125_825,
    1_500_000_000,
    md5="7c2ac02c03563afcf9b574c7e56c153a",
)
N = 25_000  # of each split
# of the 50,000 labelled reviews in the order `canonical` gives them, whichever way they came
SHA256 = "26404f0a6d68227535cc0d0267006fd9513ea3295bb3d217e4b4b29674814c77"
VOCABULARY, RARE = 135, 15

Review = tuple[str, int, bytes]  # split, label, text


class Text(TaskData):
    """IMDB reviews from the original archive or its folder, a Parquet copy, or Hugging Face's `datasets`.

    variant     "s4" or "lra"
    max_len     positions, end token included; None: the variant's. Longer reviews are cut
    validation  "held_out": a tenth of the training reviews, drawn with data_seed, which are not trained on;
                "test": as in the literature, all reviews are trained on and the test split serves as validation;
                results so selected say so (`selection_on_test`)
    """

    name = "text"

    def __init__(self, *, variant: str = "s4", max_len: int | None = None, validation: str = "held_out", **common: Any):
        super().__init__(**common)
        if variant not in ("s4", "lra"):
            raise DataError(f"variant={variant!r}: s4 or lra")
        if validation not in ("held_out", "test"):
            raise DataError(f"validation={validation!r}: held_out or test")
        self.variant, self.validation = variant, validation
        self.selection_on_test = validation == "test"
        self.whole = 4096 if variant == "s4" else 4000
        self.max_len = whole("max_len", max_len, 2) if max_len is not None else self.whole
        self.eos = tokenizer.END if variant == "s4" else None
        vocab_size = VOCABULARY if variant == "s4" else 256
        self.spec = TaskSpec(self.name, self.max_len, 2, vocab_size, ragged=True)

    def parameters(self, edition: str) -> dict[str, Any]:
        counts = {f"n_{s}": self.wanted[s] or 64 for s in SPLITS} | {"data_seed": self.data_seed}
        return {"variant": self.variant} | (counts if edition == "toy" else {})

    def origin(self) -> Origin:
        if self.source == "huggingface":
            return self._official("Hugging Face datasets stanfordnlp/imdb", from_hugging_face)
        return super().origin()

    def _official(self, source: str, read) -> Origin:
        return Origin("official", "official", f"IMDB v1.0, {source}", lambda work: self._write(read(), work))

    def deviations(self) -> list[str]:
        short = self.max_len < self.whole
        return [f"reviews cut to {self.max_len} positions; the benchmark's are {self.whole}"] if short else []

    def find(self, folder: Path) -> Origin | None:
        if place := find_folder(folder, ("aclImdb", "imdb/aclImdb"), "train/pos"):
            return self._official("folder aclImdb", lambda: from_folder(place))
        if place := find_folder(folder, ("imdb",), "imdb.parquet"):
            return self._official("imdb.parquet", lambda: from_parquet(place / "imdb.parquet"))
        if (path := folder / IMDB.file).is_file():
            return self._official(IMDB.file, lambda: self._unpacked(path))
        return None

    def _unpacked(self, path: Path) -> Iterator[Review]:
        download.check(path, IMDB)
        return from_folder(download.unpack(path, self.root / "raw", "aclImdb", limit=IMDB.unpacked))

    def fetched(self) -> Origin:
        instead = "give a folder that holds aclImdb, aclImdb_v1.tar.gz or imdb.parquet as data.source or $LRA_MIRROR"
        return self._official(IMDB.file, lambda: self._unpacked(download.fetch(IMDB, self.root / "raw", instead)))

    def toy(self) -> Origin:
        return Origin("toy", "toy", "made-up sentences", self._write_toy)

    def _write_toy(self, work: Path) -> dict[str, Any]:
        rng = np.random.default_rng(self.data_seed)
        words = (("bad", "dull", "poor", "plot"), ("good", "fine", "great", "plot"))
        counts = [self.parameters("toy")[f"n_{s}"] for s in SPLITS]
        y = rng.integers(0, 2, sum(counts), np.uint8)
        texts = [" ".join(rng.choice(words[label], rng.integers(5, 30))) for label in y]
        return self._save(
            work, texts, y, dict(zip(SPLITS, itertools.pairwise(np.cumsum([0, *counts]).tolist()), strict=True))
        )

    def _write(self, reviews: Iterator[Review], work: Path) -> dict[str, Any]:
        rows = canonical(reviews)
        texts = [text.decode() for _, _, text in rows]
        return self._save(
            work, texts, np.array([label for _, label, _ in rows], np.uint8), {"train": (0, N), "test": (N, 2 * N)}
        )

    def _save(self, work: Path, texts: list[str], y: np.ndarray, parts: dict) -> dict[str, Any]:
        chosen = None
        if self.variant == "s4":
            chosen = tokenizer.vocabulary(texts[slice(*parts["train"])], size=VOCABULARY, at_least=RARE)
        ids, offsets = tokenizer.encode(texts, chosen)
        np.save(work / "x.npy", ids)
        np.save(work / "offsets.npy", offsets)
        np.save(work / "y.npy", y)
        return {"parts": parts, "vocabulary": chosen}

    def pool(self, arrays: dict[str, np.ndarray | None]) -> Pool:
        return Pool.of_documents(arrays, self.max_len, self.eos)

    def split(self, parts: dict[str, range], edition: str) -> dict[str, np.ndarray]:
        train, test = np.asarray(parts["train"]), np.asarray(parts["test"])
        if "val" in parts:
            return {"train": train, "val": np.asarray(parts["val"]), "test": test}
        if self.validation == "test":
            return {"train": train, "val": test, "test": test}
        order = np.random.default_rng([self.data_seed, 10]).permutation(train)
        held = len(train) // 10
        return {"train": np.sort(order[held:]), "val": np.sort(order[:held]), "test": test}

    def text(self, row: int) -> str:
        pool, begin = self.opened.pool, int(self.opened.pool.starts[row])
        return tokenizer.decode(
            pool.x[begin : begin + int(pool.stored[row])].numpy(), self.opened.manifest["vocabulary"]
        )


def canonical(reviews: Iterator[Review]) -> list[Review]:
    """Training reviews, then test reviews, each by label and text: the same rows whichever way they came.

    raises  DataError if they are not the 50,000 of the release
    """
    rows = sorted(reviews, key=lambda row: (row[0] != "train", *row[1:]))
    counts = {(split, label): 0 for split in ("train", "test") for label in (0, 1)}
    state = hashlib.sha256()
    for split, label, text in sorted(rows):
        if (split, label) not in counts:
            raise DataError(f"IMDB: split {split!r}, label {label!r}; known are train and test, 0 and 1")
        counts[split, label] += 1
        state.update(f"{split} {label} ".encode() + text + b"\0")
    for (split, label), n in counts.items():
        if n != N // 2:
            raise DataError(f"IMDB: {n} {split} reviews of label {label}, the release has {N // 2}; files are missing")
    if state.hexdigest() != SHA256:
        raise DataError(
            f"IMDB: SHA-256 of all texts is {state.hexdigest()}, of the release {SHA256}; a text is damaged"
        )
    return rows


def from_folder(place: Path) -> Iterator[Review]:
    """The tree of the original archive: {train,test}/{neg,pos}/<id>_<rating>.txt."""
    with bar("reading aclImdb", 2 * N) as advance:
        for split in ("train", "test"):
            for label, name in enumerate(("neg", "pos")):
                if not (place / split / name).is_dir():
                    raise DataError(f"{place / split / name}: missing; unpack {IMDB.file} again")
                for path in sorted((place / split / name).glob("*.txt")):
                    text = path.read_bytes()
                    if not text:
                        raise DataError(f"{path}: no bytes; unpack {IMDB.file} again")
                    yield split, label, text
                    advance(1)


def from_parquet(path: Path) -> Iterator[Review]:
    """A table with the columns text, label (0 negative, 1 positive) and split."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, columns=["split", "label", "text"]).to_pydict()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet table ({str(error).splitlines()[0]}); copy it again") from None
    for split, label, text in zip(table["split"], table["label"], table["text"], strict=True):
        yield split, label, text.encode()


def from_hugging_face() -> Iterator[Review]:
    """The same reviews through Hugging Face's `datasets`, which keeps its own cache."""
    import datasets

    for split in ("train", "test"):
        try:
            rows = datasets.load_dataset("stanfordnlp/imdb", split=split)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(
                f"datasets could not load stanfordnlp/imdb ({reason}); source=auto fetches {IMDB.url}"
            ) from None
        for row in rows:
            yield split, row["label"], row["text"].encode()
