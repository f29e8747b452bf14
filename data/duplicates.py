"""Equal examples in two splits, compared by content: the bytes a model sees, of pairs in either order."""

import hashlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from data.loader import Examples
from data.prepared import DataError


def contents(examples: Examples, rows: np.ndarray) -> Iterator[bytes]:
    """A hash of each example's content, after truncation to max_len; that of a pair ignores the order."""
    limit = examples.max_len - (examples.eos is not None) if examples.offsets is not None else None
    known: dict[int, bytes] = {}

    def document(i: int) -> bytes:
        return hashlib.blake2b(examples.document(i)[:limit].tobytes(), digest_size=16).digest()

    for row in rows.tolist():
        if examples.pairs is None:
            yield document(row)
            continue
        pair = examples.pairs[row].tolist()
        for i in pair:
            if i not in known:
                known[i] = document(i)
        yield b"".join(sorted(known[i] for i in pair))


def equal_examples(
    examples: Examples,
    index: Mapping[str, np.ndarray],
    *,
    advance: Callable[[int], object] = lambda n: None,
    refuse: str | None = None,
) -> dict[str, int]:
    """Split -> how many of its examples occur in a split before it.

    refuse  name of a task without any: the first one raises DataError
    """
    seen: dict[bytes, tuple[str, int]] = {}
    found = {}
    for split, rows in index.items():
        found[split] = 0
        for row, content in zip(rows.tolist(), contents(examples, rows), strict=True):
            first = seen.setdefault(content, (split, row))
            if first[0] != split:
                found[split] += 1
                if refuse is not None:
                    raise DataError(f"{refuse}: example {row} of {split} is example {first[1]} of {first[0]}")
            advance(1)
    return found


def in_words(found: Mapping[str, int], index: Mapping[str, np.ndarray]) -> str:
    """'16 examples occur in two splits (16 of 2000 in test)'."""
    places = ", ".join(f"{n} of {len(index[split])} in {split}" for split, n in found.items() if n)
    return f"{sum(found.values())} examples occur in two splits" + (f" ({places})" if places else "")
