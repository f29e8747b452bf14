"""Texts as uint8 arrays: ids of characters in a vocabulary, or UTF-8 bytes.

A vocabulary is a string: its character k has id k + 3, after padding, unknown and end. UTF-8 needs none; no text has
the byte 0, which is padding.
"""

from collections.abc import Sequence

import numpy as np

PAD, UNKNOWN, END = 0, 1, 2
SPECIALS = 3


def vocabulary(texts: Sequence[str], *, size: int, at_least: int = 1) -> str:
    """The most frequent characters, ties by code point: at most size - 3, each occurring `at_least` times."""
    points = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    counts = np.bincount(points)
    # stable: equal counts stay in the order of code points
    order = np.argsort(-counts, kind="stable")[: size - SPECIALS]
    return "".join(chr(point) for point in order if counts[point] >= at_least)


def encode(texts: Sequence[str], characters: str | None) -> tuple[np.ndarray, np.ndarray]:
    """(ids of all texts, uint8, concatenated; offsets, int64 (n + 1,)); characters None: UTF-8 bytes."""
    if characters is None:
        encoded = [text.encode() for text in texts]
        return np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([0, *map(len, encoded)])
    table = np.full(0x110000, UNKNOWN, np.uint8)
    table[[ord(c) for c in characters]] = np.arange(SPECIALS, SPECIALS + len(characters))
    points = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    return table[points], np.cumsum([0, *map(len, texts)])


def decode(ids: np.ndarray, characters: str | None) -> str:
    """Text of ids, for people: unknown characters as U+FFFD, padding and end left out."""
    if characters is None:
        return bytes(ids).rstrip(b"\0").decode("utf-8", "replace")
    names = ["", "�", "", *characters]
    return "".join(names[i] for i in ids)
