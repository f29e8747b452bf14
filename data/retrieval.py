"""Retrieval: does one paper cite the other? Two documents with one label, two classes.

Variants: "s4", the default, has characters of a vocabulary of 98 and an end token; "lra" has UTF-8 bytes. Both have
4000 positions for each document. A document that occurs in many pairs is stored once.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data import tokenizer
from data.datamodule import TaskData, check_choice, check_integer, consecutive
from data.prepared import DataError, read_table, save_arrays
from data.source import Source, check_test_file, find_folder, sizes
from lra.console import progress_bar
from lra.task import TaskSpec

FILES = {"train": "train", "val": "eval", "test": "test"}
COUNTS = {"train": 147_086, "val": 18_090, "test": 17_437}
MAX_LEN = 4_000
STORED = 10_000  # characters of a document: the LRA code's first truncation
VOCABULARY = 98  # padding, unknown, end, and as many characters as printable ASCII has

Pair = tuple[int, str, str]  # label, documents


class Retrieval(TaskData):
    """The pairs of the LRA archive, or the smaller substitute of ACL papers with citation links.

    variant  "s4" or "lra"
    max_len  positions of each document, end token included; longer documents are truncated
    """

    name = "retrieval"
    archive_folder = "lra_release/lra_release/tsv_data"
    real_editions = ("official", "acl")

    def __init__(self, *, variant: str = "s4", max_len: int | None = None, **common: Any):
        super().__init__(**common)
        self.variant = check_choice("variant", variant, ("s4", "lra"))
        self.max_len = MAX_LEN if max_len is None else check_integer("max_len", max_len, 2)
        self.eos = tokenizer.END if variant == "s4" else None
        vocab_size = VOCABULARY if variant == "s4" else 256
        self.spec = TaskSpec(self.name, self.max_len, 2, vocab_size, paired=True, ragged=True)

    def parameters(self, edition: str) -> dict[str, Any]:
        return {"variant": self.variant} | (self.toy_parameters() if edition == "toy" else {})

    def deviations(self) -> list[str]:
        short = self.max_len < MAX_LEN
        return [f"documents cut to {self.max_len} positions; the benchmark's are {MAX_LEN}"] if short else []

    def find_files(self, folder: Path) -> Source | None:
        if place := find_folder(folder, ("tsv_data", "aan", "retrieval"), "new_aan_pairs.train.tsv"):
            names = tuple(f"new_aan_pairs.{file}.tsv" for file in FILES.values())
            write = partial(self._save, partial(official, place))
            files, identity = tuple(place / name for name in names), sizes(place, names)
            check_test_file(files[0], files[-1])
            return Source("official", "official", "LRA new_aan_pairs.*.tsv", write, identity=identity, files=files)
        if place := find_folder(folder, ("aan",), "papers.parquet"):
            names = ("papers.parquet", *(f"pairs.{file}.tsv" for file in FILES.values()))
            note = (
                "ACL papers with citation links, not the LRA pairs: accuracies are not comparable with published ones"
            )
            write = partial(self._save, partial(substitute, place))
            files, identity = tuple(place / name for name in names), sizes(place, names)
            check_test_file(files[1], files[-1])
            return Source("acl", "subset", "ACL Anthology papers", write, (note,), identity, files)
        return None

    def toy(self) -> Source:
        def write(work: Path) -> dict[str, Any]:
            rng = np.random.default_rng(self.data_seed)
            topics = (("tree", "parse", "node"), ("sound", "voice", "pitch"))

            def pairs(split: str) -> Iterator[Pair]:
                for _ in range(self.made_counts()[f"n_{split}"]):
                    label, first = rng.integers(0, 2, 2)
                    a, b = (" ".join(rng.choice(topics[t], rng.integers(5, 30))) for t in (first, first ^ (1 - label)))
                    yield int(label), a, b

            return self._save(pairs, work)

        return Source("toy", "toy", "made-up documents", write)

    def _save(self, read: Callable[[str], Iterator[Pair]], work: Path) -> dict[str, Any]:
        """Store each distinct document once; the vocabulary is that of documents in training pairs."""
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
        counts = []
        training_texts = 0
        for split in FILES:
            before = len(labels)
            for label, first, second in read(split):
                pairs.append((number(first), number(second)))
                labels.append(label)
            counts.append(len(labels) - before)
            training_texts = len(texts) if split == "train" else training_texts
        s4 = self.variant == "s4"
        characters = tokenizer.vocabulary(texts[:training_texts], size=VOCABULARY) if s4 else None
        ids, offsets = tokenizer.encode(texts, characters)
        save_arrays(work, x=ids, offsets=offsets, pairs=np.array(pairs, np.int32), y=np.array(labels, np.uint8))
        return {
            "parts": consecutive(counts),
            "vocabulary": characters,
            "unknown_share": float((ids == tokenizer.UNKNOWN).mean()) if s4 else 0.0,
            "documents": len(texts),
        }

    def text(self, row: int) -> str:
        examples, vocabulary = self.opened.examples, self.opened.manifest["vocabulary"]
        pair = self.opened.arrays["pairs"][row].tolist()
        return "\n--\n".join(tokenizer.decode(examples.document(i), vocabulary) for i in pair)


def fields(path: Path, n: int) -> Iterator[tuple[str, list[str]]]:
    """(path:line, the n columns) of each line; columns are separated by tabs, never quoted."""
    with path.open("rb") as lines, progress_bar(f"reading {path.name}", path.stat().st_size, in_bytes=True) as advance:
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
        if not first.strip() or not second.strip():
            raise DataError(f"{where}: a document without text; the file is damaged")
        n += 1
        yield int(float(label)), first, second
    if n != COUNTS[split]:
        raise DataError(f"{path}: {n} pairs, the release has {COUNTS[split]}; the file is cut off or another")


def substitute(place: Path, split: str) -> Iterator[Pair]:
    """The pairs of ACL papers: label, id, id in pairs.*.tsv, texts in papers.parquet."""
    path = place / "papers.parquet"
    texts = dict(zip(*read_table(path, "id", "text"), strict=True))
    for where, (label, first, second) in fields(place / f"pairs.{FILES[split]}.tsv", 3):
        for paper in (first, second):
            if not (texts.get(paper) or "").strip():
                raise DataError(f"{where}: no text of paper {paper!r} in {path.name}")
        yield int(float(label)), texts[first], texts[second]
