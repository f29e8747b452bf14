"""Language modelling on Wikipedia articles: WikiText-103 and WikiText-2, by words or bytes.

Merity et al. 2016, arXiv:1609.07843. Words as in Transformer-XL and the S4 repository: a line is split at spaces and
ends with <eos>; ids by falling frequency in the training text.
"""

import functools
import lzma
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.datamodule import check_choice, check_integer
from data.next_token import NextTokenTask, Windows
from data.prepared import DataError, save_arrays
from data.source import Source, find_folder
from lra.task import TaskSpec

END, UNKNOWN = "<eos>", "<unk>"
TOY = {"train": 256, "val": 64, "test": 64}  # windows
SPLITS = {"train": "train", "val": "valid", "test": "test"}
# words of the vocabulary and of each split, <eos> included: Transformer-XL (Dai et al. 2019), Merity et al. 2016
SIZES = {
    "wikitext103": (267_735, {"train": 103_227_021, "val": 217_646, "test": 245_569}),
    "wikitext2": (33_278, {"train": 2_088_628, "val": 217_646, "test": 245_569}),
}
FOLDERS = {"wikitext103": "wikitext-103", "wikitext2": "wikitext-2"}
Texts = dict[str, list[str]]  # split -> lines


class Language(NextTokenTask):
    """The files wiki.{train,valid,test}.tokens of a folder, or Hugging Face's `datasets`.

    corpus      "wikitext103" or "wikitext2"
    level       "word", or "byte": UTF-8
    context     positions of a window; windows follow one another and know nothing of those before
    vocabulary  the most frequent words, others are <unk>; None: all. No effect on bytes
    """

    name = "wikitext103"
    archive_folder = "wikitext"
    real_editions = ("official", "part")

    def __init__(
        self,
        *,
        corpus: str = "wikitext103",
        level: str = "word",
        context: int = 1024,
        vocabulary: int | None = None,
        **common: Any,
    ):
        super().__init__(**common)
        self.corpus = check_choice("corpus", corpus, tuple(SIZES))
        self.level = check_choice("level", level, ("word", "byte"))
        self.context = check_integer("context", context)
        size = SIZES[corpus][0]
        self.vocabulary = None if vocabulary is None else check_integer("vocabulary", vocabulary, 2)
        if self.vocabulary is not None and self.vocabulary >= size:
            raise DataError(f"vocabulary={vocabulary}: {corpus} has {size} words", hint="vocabulary=null")
        n = 256 if level == "byte" else self.vocabulary or size
        self.spec = TaskSpec(
            self.name, context, n, n + 1, objective="language", horizon=context, ragged=True, causal=True
        )

    def parameters(self, edition: str) -> dict[str, Any]:
        words = {"vocabulary": self.vocabulary} if self.level == "word" else {}
        toy = {"context": self.context} | self.made_counts(TOY) | {"data_seed": self.data_seed}
        return {"level": self.level} | words | (toy if edition == "toy" else {})

    def folder(self, edition: str) -> Path:
        return self.root / self.corpus / super().folder(edition).name  # every context reads the same arrays

    def deviations(self) -> list[str]:
        short = self.level == "word" and self.vocabulary is not None
        return [f"the {self.vocabulary} most frequent words; others are {UNKNOWN}"] if short else []

    def named_source(self, name: str) -> Source | None:
        return self.downloaded() if name == "huggingface" else super().named_source(name)

    def downloaded(self) -> Source:
        return self._official("Hugging Face datasets Salesforce/wikitext", self._from_hugging_face)

    def find(self, folder: Path) -> Source | None:
        return self.find_files(folder)

    def find_files(self, folder: Path) -> Source | None:
        name = FOLDERS[self.corpus]
        if place := find_folder(folder, (name, f"wikitext/{name}"), "wiki.train.tokens"):
            paths = {split: place / f"wiki.{word}.tokens" for split, word in SPLITS.items()}
            return self._official(f"folder {name}", lambda: {split: lines_of(path) for split, path in paths.items()})
        if place := find_folder(folder, ("wikitext",), f"{name}.valid.txt.xz"):
            return self._part(place / f"{name}.valid.txt.xz", place / f"{name}.test.txt.xz")
        return None

    def _official(self, origin: str, read: Callable[[], Texts]) -> Source:
        def write(work: Path) -> dict[str, Any]:
            texts = read()
            for split, n in SIZES[self.corpus][1].items():
                if (found := sum(len(line.split()) + 1 for line in texts[split])) != n:
                    problem = f"{self.corpus}: {found} words in {split}, the release has {n}"
                    raise DataError(problem, hint="get the files again")
            return self._save(work, texts)

        return Source("official", "official", f"{self.corpus}, {origin}", write)

    def _part(self, valid: Path, test: Path) -> Source:
        """Where the training text is missing: the validation text is trained on, halves of the test text measure."""

        def write(work: Path) -> dict[str, Any]:
            lines = lines_of(test)
            middle = len(lines) // 2
            return self._save(work, {"train": lines_of(valid), "val": lines[:middle], "test": lines[middle:]})

        notes = ("trained on the validation text; the halves of the test text are validation and test",)
        return Source(
            "part", "subset", f"{self.corpus} without its training text", write, notes=notes, files=(valid, test)
        )

    def _from_hugging_face(self) -> Texts:
        import datasets

        try:
            found = datasets.load_dataset("Salesforce/wikitext", f"{FOLDERS[self.corpus]}-v1")
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            reason = str(error).strip().split("\n")[0]
            hint = "give a folder with wiki.train.tokens, wiki.valid.tokens, wiki.test.tokens as data.source"
            raise DataError(f"{self.corpus} cannot be downloaded ({reason})", hint=hint) from None
        names = {"train": "train", "val": "validation", "test": "test"}
        return {split: list(found[name]["text"]) for split, name in names.items()}

    def toy(self) -> Source:
        """Sentences of a small grammar, in which a verb agrees with a subject some words before."""

        def write(work: Path) -> dict[str, Any]:
            rng = np.random.default_rng(self.data_seed)
            counts = zip(SPLITS, self.made_counts(TOY).values(), strict=True)
            return self._save(work, {split: self.toy_lines(rng, n * self.context) for split, n in counts})

        return Source("toy", "toy", "made-up sentences", write)

    def toy_lines(self, rng: np.random.Generator, n_tokens: int) -> list[str]:
        """Sentences of at least so many tokens."""
        nouns, places = ("dog", "cat", "bird", "horse"), ("in the garden", "near the old house", "")
        verbs = ("sleeps", "sings", "waits"), ("sleep", "sing", "wait")
        lines: list[str] = []
        while n_tokens > 0:
            plural, noun, place, verb = (int(number) for number in rng.integers((2, 4, 3, 3)))
            words = f"the {nouns[noun]}{'s' * plural} {places[place]} {verbs[plural][verb]} .".split()
            lines.append(" ".join(words))
            n_tokens -= len(words) + 1 if self.level == "word" else len(lines[-1]) + 1
        return lines

    def _save(self, work: Path, texts: Texts) -> dict[str, Any]:
        words: list[str] | None = None
        if self.level == "byte":
            encoded = [
                np.frombuffer("".join(f"{line.strip()}\n" for line in t).encode(), np.uint8) for t in texts.values()
            ]
        else:
            words = vocabulary_of(texts["train"], self.spec.n_outputs)
            ids = {word: i for i, word in enumerate(words)}
            encoded = [encode(lines, ids) for lines in texts.values()]
        ends = np.cumsum([0, *map(len, encoded)])
        text = np.frombuffer("\n".join(words or []).encode(), np.uint8)
        save_arrays(work, x=np.concatenate(encoded), ends=ends, words=text)
        return {"parts": {split: (int(a), int(b)) for split, (a, b) in zip(texts, pairwise(ends), strict=True)}}

    def make_examples(self, arrays: dict[str, np.ndarray]) -> Windows:
        """Windows of train, val and test; a part of a window at the end of the training text is left out."""
        bounds = list(pairwise(arrays["ends"].tolist()))
        if bounds[0][1] < self.context:
            raise DataError(
                f"context={self.context}: longer than the {bounds[0][1]} training tokens", hint="task.context=64"
            )
        starts = [np.arange(a, b, self.context) for a, b in bounds]
        starts[0] = starts[0][starts[0] + self.context <= bounds[0][1]]
        begins = [np.full(len(s), a) for s, (a, _) in zip(starts, bounds, strict=True)]
        ends = [np.minimum(s + self.context, b) for s, (_, b) in zip(starts, bounds, strict=True)]
        windows = {"starts": starts, "ends": ends, "begins": begins}
        columns: dict[str, Any] = {
            name: torch.from_numpy(np.concatenate(column).astype(np.int64)) for name, column in windows.items()
        }
        return Windows(torch.from_numpy(arrays["x"]), torch.zeros(len(columns["starts"])), self.context, **columns)

    def split(self, parts: dict[str, range], edition: str) -> dict[str, np.ndarray]:
        sizes = [
            len(parts["train"]) // self.context,
            *(-(-len(parts[name]) // self.context) for name in ("val", "test")),
        ]
        bounds = pairwise(np.cumsum([0, *sizes]).tolist())
        return {name: np.arange(a, b) for name, (a, b) in zip(SPLITS, bounds, strict=True)}

    @functools.cached_property
    def words(self) -> list[str]:
        """The vocabulary in the order of ids; bytes have none."""
        return bytes(self.opened.arrays["words"]).decode().split("\n") if self.level == "word" else []

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text; DataError, naming it, for a word that is not in the vocabulary."""
        if self.level == "byte":
            return np.frombuffer(text.encode(), np.uint8).astype(np.int64)
        ids = {word: i for i, word in enumerate(self.words)}
        for word in text.split():
            if word not in ids:
                raise DataError(
                    f"{word!r} is not one of the {len(ids)} words of {self.corpus}", hint=f"{UNKNOWN} stands for any"
                )
        return np.array([ids[word] for word in text.split()], np.int64)

    def decode(self, ids: np.ndarray) -> str:
        if self.level == "byte":
            return bytes(ids.astype(np.uint8)).decode("utf-8", "replace")
        return " ".join(self.words[i] for i in ids).replace(f" {END} ", "\n").replace(f" {END}", "\n")

    def text(self, row: int) -> str:
        return self.decode(self.opened.examples.document(row))

    def statistics(self) -> dict[str, str]:
        ends = self.opened.arrays["ends"]
        return {
            "tokens": " / ".join(f"{n:,}" for n in np.diff(ends).tolist()),
            "vocabulary": str(len(self.words) or 256),
            "trivial perplexity, test": f"{self.trivial_score('test'):.1f}",
        } | ({"by the byte before": f"{self.neighbour_score('test', 1):.1f}"} if self.level == "byte" else {})


def lines_of(path: Path) -> list[str]:
    """Lines of a UTF-8 text, which may be compressed."""
    opener: Any = lzma.open if path.suffix == ".xz" else open
    try:
        with opener(path, "rb") as file:
            # other line ends than \\n are spaces of the text
            return file.read().decode().removesuffix("\n").split("\n")
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable text ({error})", hint="get the file again") from None


def vocabulary_of(lines: Iterable[str], size: int) -> list[str]:
    """<unk>, <eos> and the most frequent words, by falling frequency, ties in the order of the words."""
    counts = Counter(word for line in lines for word in (*line.split(), END))
    kept = sorted(counts, key=lambda word: (-counts[word], word))
    special = [word for word in (UNKNOWN, END) if word not in kept[:size]]
    return [*kept[: size - len(special)], *special]


def encode(lines: Iterable[str], ids: dict[str, int]) -> np.ndarray:
    unknown = ids[UNKNOWN]
    return np.fromiter((ids.get(word, unknown) for line in lines for word in (*line.split(), END)), np.int32)
