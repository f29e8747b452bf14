"""Retrieval: does one paper cite the other? Two documents, one label, two classes.

Variants: "s4", the default, reads characters of a vocabulary of 98 and puts an end token last; "lra" reads UTF-8
bytes. Both read 4000 positions of each document. A document that occurs in many pairs is stored once.
"""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data import tokenizer
from data.datamodule import SPLITS, DataError, Origin, Pool, TaskData, whole
from data.source_folders import find_folder, sizes
from lra.console import bar
from lra.task import TaskSpec

FILES = {"train": "train", "val": "eval", "test": "test"}
COUNTS = {"train": 147_086, "val": 18_090, "test": 17_437}
WHOLE = 4_000
STORED = 10_000  # characters of a document: where the LRA code cuts first
VOCABULARY = 98  # padding, unknown, end, and as many characters as printable ASCII has

Pair = tuple[int, str, str]


class Retrieval(TaskData):
    """The pairs of the LRA archive, or the smaller substitute of ACL papers with citation links.

    variant  "s4" or "lra"
    max_len  positions of each document, end token included. Longer documents are cut
    """

    name = "retrieval"
    lra_folder = "lra_release/lra_release/tsv_data"
    real_editions = ("official", "acl")

    def __init__(self, *, variant: str = "s4", max_len: int | None = None, **common: Any):
        super().__init__(**common)
        if variant not in ("s4", "lra"):
            raise DataError(f"variant={variant!r}: s4 or lra")
        self.variant = variant
        self.max_len = whole("max_len", max_len, 2) if max_len is not None else WHOLE
        self.eos = tokenizer.END if variant == "s4" else None
        vocab_size = VOCABULARY if variant == "s4" else 256
        self.spec = TaskSpec(self.name, self.max_len, 2, vocab_size, paired=True, ragged=True)

    def parameters(self, edition: str) -> dict[str, Any]:
        counts = {f"n_{s}": self.wanted[s] or 64 for s in SPLITS} | {"data_seed": self.data_seed}
        return {"variant": self.variant} | (counts if edition == "toy" else {})

    def deviations(self) -> list[str]:
        short = self.max_len < WHOLE
        return [f"documents cut to {self.max_len} positions; the benchmark's are {WHOLE}"] if short else []

    def unpacked(self, folder: Path) -> Origin | None:
        if place := find_folder(folder, ("tsv_data", "aan", "retrieval"), "new_aan_pairs.train.tsv"):
            names = tuple(f"new_aan_pairs.{file}.tsv" for file in FILES.values())
            source = "LRA new_aan_pairs.*.tsv"
            write = lambda work: self._save(work, {s: official(place, s) for s in FILES})  # noqa: E731
            return Origin("official", "official", source, write, identity=sizes(place, names))
        if place := find_folder(folder, ("aan",), "papers.parquet"):
            names = ("papers.parquet", *(f"pairs.{file}.tsv" for file in FILES.values()))
            note = (
                "ACL papers with citation links, not the LRA pairs: accuracies are not comparable with published ones"
            )
            write = lambda work: self._save(work, substitute(place))  # noqa: E731
            return Origin("acl", "subset", "ACL Anthology papers", write, (note,), sizes(place, names))
        return None

    def toy(self) -> Origin:
        def write(work: Path) -> dict[str, Any]:
            rng = np.random.default_rng(self.data_seed)
            topics = (("tree", "parse", "node"), ("sound", "voice", "pitch"))

            def pairs(split: str) -> Iterator[Pair]:
                for _ in range(self.parameters("toy")[f"n_{split}"]):
                    label, first = rng.integers(0, 2, 2)
                    texts = [" ".join(rng.choice(topics[t], rng.integers(5, 30))) for t in (first, first ^ (1 - label))]
                    yield int(label), *texts

            return self._save(work, {split: pairs(split) for split in FILES})

        return Origin("toy", "toy", "made-up documents", write)

    def _save(self, work: Path, splits: dict[str, Iterator[Pair]]) -> dict[str, Any]:
        """Number each distinct document once; the vocabulary is that of documents in training pairs."""
        numbers: dict[bytes, int] = {}
        texts: list[str] = []

        def number(text: str) -> int:
            text = text[:STORED]
            key = hashlib.blake2b(text.encode(), digest_size=16).digest()
            if key not in numbers:
                numbers[key] = len(texts)
                texts.append(text)
            return numbers[key]

        pairs: list[tuple[int, int]] = []
        labels: list[int] = []
        ends = [0]
        trained = 0
        for split, rows in splits.items():
            for label, first, second in rows:
                pairs.append((number(first), number(second)))
                labels.append(label)
            ends.append(len(labels))
            trained = len(texts) if split == "train" else trained
        chosen = tokenizer.vocabulary(texts[:trained], size=VOCABULARY) if self.variant == "s4" else None
        ids, offsets = tokenizer.encode(texts, chosen)
        np.save(work / "x.npy", ids)
        np.save(work / "offsets.npy", offsets)
        np.save(work / "pairs.npy", np.array(pairs, np.int32))
        np.save(work / "y.npy", np.array(labels, np.uint8))
        unknown = float((ids == tokenizer.UNKNOWN).mean()) if chosen else 0.0
        return {
            "parts": dict(zip(FILES, itertools.pairwise(ends), strict=True)),
            "vocabulary": chosen,
            "unknown_share": unknown,
            "documents": len(texts),
        }

    def pool(self, arrays: dict[str, np.ndarray | None]) -> Pool:
        return Pool.of_documents(arrays, self.max_len, self.eos)

    def text(self, row: int) -> str:
        pool = self.opened.pool

        def document(i: int) -> str:
            begin = int(pool.starts[i])
            ids = pool.x[begin : begin + int(pool.stored[i])].numpy()
            return tokenizer.decode(ids, self.opened.manifest["vocabulary"])

        return "\n--\n".join(document(i) for i in pool.pairs[row].tolist())


def fields(path: Path, n: int) -> Iterator[tuple[str, list[str]]]:
    """(path:line, the n columns) of each line; columns are separated by tabs and never quoted."""
    with path.open("rb") as lines, bar(f"reading {path.name}", path.stat().st_size, in_bytes=True) as advance:
        for line_number, line in enumerate(lines, 1):
            advance(len(line))
            where = f"{path}:{line_number}"
            row = line.decode("utf-8", "replace").rstrip("\r\n").split("\t", n - 1)
            if len(row) != n:
                raise DataError(f"{where}: {len(row)} columns, expected {n} separated by tabs; the file is damaged")
            if row[0] not in ("0", "1", "0.0", "1.0"):
                raise DataError(f"{where}: label {row[0][:20]!r}, expected 0.0 or 1.0; the file is damaged")
            yield where, row


def official(place: Path, split: str) -> Iterator[Pair]:
    """The rows of one file of the release: label, id, id, text, text."""
    path, n = place / f"new_aan_pairs.{FILES[split]}.tsv", 0
    for where, (label, _, _, first, second) in fields(path, 5):
        if not first or not second:
            raise DataError(f"{where}: a document without text; the file is damaged")
        n += 1
        yield int(float(label)), first, second
    if n != COUNTS[split]:
        raise DataError(f"{path}: {n} pairs, the release has {COUNTS[split]}; the file is cut off or another")


def substitute(place: Path) -> dict[str, Iterator[Pair]]:
    """The pairs of ACL papers: label, id, id in pairs.*.tsv, texts in papers.parquet."""
    import pyarrow
    import pyarrow.parquet

    path = place / "papers.parquet"
    try:
        table = pyarrow.parquet.read_table(path, columns=["id", "text"]).to_pydict()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet table ({str(error).splitlines()[0]}); copy it again") from None
    texts = dict(zip(table["id"], table["text"], strict=True))

    def pairs(split: str) -> Iterator[Pair]:
        for where, (label, first, second) in fields(place / f"pairs.{FILES[split]}.tsv", 3):
            for paper in (first, second):
                if not texts.get(paper):
                    raise DataError(f"{where}: no text of paper {paper!r} in {path.name}")
            yield int(float(label)), texts[first], texts[second]

    return {split: pairs(split) for split in FILES}
