"""Text: is a film review favourable? Read character by character, two classes.

The Large Movie Review Dataset v1.0 (Maas et al. 2011), 25,000 training and 25,000 test reviews. Variants: "s4", the
default, has characters of a vocabulary of 135 and an end token, 4096 positions; "lra" has UTF-8 bytes, 4000 positions.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data import tokenizer
from data.datamodule import TaskData, check_choice, check_integer, consecutive
from data.download import Archive
from data.prepared import DataError, read_table, save_arrays
from data.source import Source, find_folder
from lra.console import progress_bar
from lra.task import TaskSpec

IMDB = Archive(
    "aclImdb_v1.tar.gz",
    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    84_125_825,
    1_500_000_000,
    md5="7c2ac02c03563afcf9b574c7e56c153a",
)
N = 25_000  # of each split
# of the 50,000 labelled reviews in the order of `canonical`, whatever their source
SHA256 = "26404f0a6d68227535cc0d0267006fd9513ea3295bb3d217e4b4b29674814c77"
VOCABULARY, RARE = 135, 15

Review = tuple[str, int, bytes]  # split, label, text


class Text(TaskData):
    """IMDB reviews from the original archive or its folder, a Parquet copy, or Hugging Face's `datasets`.

    variant     "s4" or "lra"
    max_len     positions, end token included; None: the variant's. Longer reviews are truncated
    validation  "held_out": a tenth of the training reviews, drawn with data_seed, which are not trained on;
                "test": as in the literature, all training reviews are trained on and the test split serves as
                validation; such results are marked (`selection_on_test`)
    """

    name = "text"
    archive = IMDB
    archive_folder = "aclImdb"

    def __init__(self, *, variant: str = "s4", max_len: int | None = None, validation: str = "held_out", **common: Any):
        super().__init__(**common)
        self.variant = check_choice("variant", variant, ("s4", "lra"))
        self.validation = check_choice("validation", validation, ("held_out", "test"))
        self.selection_on_test = validation == "test"
        self.benchmark_len = 4096 if variant == "s4" else 4000
        self.max_len = self.benchmark_len if max_len is None else check_integer("max_len", max_len, 2)
        self.eos = tokenizer.END if variant == "s4" else None
        vocab_size = VOCABULARY if variant == "s4" else 256
        self.spec = TaskSpec(self.name, self.max_len, 2, vocab_size, ragged=True)

    def parameters(self, edition: str) -> dict[str, Any]:
        return {"variant": self.variant} | (self.toy_parameters() if edition == "toy" else {})

    def named_source(self, name: str) -> Source | None:
        if name == "huggingface":
            return self._official("Hugging Face datasets stanfordnlp/imdb", from_hugging_face)
        return super().named_source(name)

    def _official(self, origin: str, read: Callable[[], Iterator[Review]]) -> Source:
        def write(work: Path) -> dict[str, Any]:
            rows = canonical(read())
            labels = np.array([label for _, label, _ in rows], np.uint8)
            return self._save(work, [text.decode() for *_, text in rows], labels, {"train": (0, N), "test": (N, 2 * N)})

        return Source("official", "official", f"IMDB v1.0, {origin}", write)

    def deviations(self) -> list[str]:
        short = self.max_len < self.benchmark_len
        return [f"reviews cut to {self.max_len} positions; the benchmark's are {self.benchmark_len}"] if short else []

    def find_files(self, folder: Path) -> Source | None:
        if place := find_folder(folder, ("aclImdb", "imdb/aclImdb"), "train/pos"):
            return self._official("folder aclImdb", partial(from_folder, place))
        if place := find_folder(folder, ("imdb",), "imdb.parquet"):
            return self._official("imdb.parquet", partial(from_parquet, place / "imdb.parquet"))
        return None

    def archive_description(self) -> str:
        return f"IMDB v1.0, {IMDB.file}"

    def toy(self) -> Source:
        def write(work: Path) -> dict[str, Any]:
            rng, counts = np.random.default_rng(self.data_seed), self.made_counts().values()
            words = (("bad", "dull", "poor", "plot"), ("good", "fine", "great", "plot"))
            y = rng.integers(0, 2, sum(counts), np.uint8)
            texts = [" ".join(rng.choice(words[label], rng.integers(5, 30))) for label in y]
            return self._save(work, texts, y, consecutive(counts))

        return Source("toy", "toy", "made-up sentences", write)

    def _save(self, work: Path, texts: list[str], y: np.ndarray, parts: dict[str, tuple[int, int]]) -> dict[str, Any]:
        characters = None
        if self.variant == "s4":
            characters = tokenizer.vocabulary(texts[slice(*parts["train"])], size=VOCABULARY, at_least=RARE)
        ids, offsets = tokenizer.encode(texts, characters)
        save_arrays(work, x=ids, offsets=offsets, y=y)
        return {"parts": parts, "vocabulary": characters}

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
        return tokenizer.decode(self.opened.examples.document(row), self.opened.manifest["vocabulary"])


def canonical(reviews: Iterator[Review]) -> list[Review]:
    """Training reviews, then test reviews, each sorted by label and text: the same rows from every source.

    raises  DataError if they are not the 50,000 of the release
    """
    rows = sorted(reviews, key=lambda row: (row[0] != "train", *row[1:]))
    counts = {(split, label): 0 for split in ("train", "test") for label in (0, 1)}
    state = hashlib.sha256()
    for split, label, text in sorted(rows):
        if (split, label) not in counts:
            raise DataError(f"IMDB: split {split!r}, label {label!r}; expected train or test, 0 or 1")
        counts[split, label] += 1
        state.update(f"{split} {label} ".encode() + text + b"\0")
    for (split, label), n in counts.items():
        if n != N // 2:
            raise DataError(f"IMDB: {n} {split} reviews of label {label}, the release has {N // 2}; files are missing")
    if state.hexdigest() != SHA256:
        raise DataError(f"IMDB: SHA-256 of all texts is {state.hexdigest()}, the release's {SHA256}; a text is damaged")
    return rows


def from_folder(place: Path) -> Iterator[Review]:
    """The tree of the original archive: {train,test}/{neg,pos}/<id>_<rating>.txt."""
    with progress_bar("reading aclImdb", 2 * N) as advance:
        for split in ("train", "test"):
            for label, name in enumerate(("neg", "pos")):
                if not (place / split / name).is_dir():
                    raise DataError(f"{place / split / name}: missing", hint=f"unpack {IMDB.file} again")
                for path in sorted((place / split / name).glob("*.txt")):
                    text = path.read_bytes()
                    if not text.strip():
                        raise DataError(
                            f"{path}: {'blank' if text else 'empty'} file", hint=f"unpack {IMDB.file} again"
                        )
                    yield split, label, text
                    advance(1)


def from_parquet(path: Path) -> Iterator[Review]:
    """A table with the columns text, label (0 negative, 1 positive) and split."""
    rows = zip(*read_table(path, "split", "label", "text"), strict=True)
    for number, (split, label, text) in enumerate(rows):
        if not (text or "").strip():
            raise DataError(f"{path}: row {number} has no text", hint="copy it again")
        yield split, label, text.encode()


def from_hugging_face() -> Iterator[Review]:
    """The same reviews through Hugging Face's `datasets`, which keeps its own cache."""
    import datasets

    for split in ("train", "test"):
        try:
            rows = datasets.load_dataset("stanfordnlp/imdb", split=split)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            problem = f"datasets could not load stanfordnlp/imdb ({reason})"
            raise DataError(problem, hint=f"source=auto downloads {IMDB.url}") from None
        for row in rows:
            yield split, row["label"], row["text"].encode()
