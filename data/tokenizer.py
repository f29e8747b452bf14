"""Texts as bytes of an array: characters numbered by a vocabulary, or UTF-8 as it is.

A vocabulary is a string: its character k has id k + 3, after padding, unknown and end. UTF-8 needs none; no text
holds the byte 0, which pads.
"""

from collections.abc import Sequence

import numpy as np

PAD, UNKNOWN, END = 0, 1, 2
SPECIALS = 3


def vocabulary(texts: Sequence[str], *, size: int, at_least: int = 1) -> str:
    """The commonest characters, ties by code point: at most size - 3 of them, each occurring `at_least` times."""
    points = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    counts = np.bincount(points)
    # stable: equal counts stay in the order of code points
    order = np.argsort(-counts, kind="stable")[: size - SPECIALS]
    return "".join(chr(point) for point in order if counts[point] >= at_least)


def encode(texts: Sequence[str], characters: str | None) -> tuple[np.ndarray, np.ndarray]:
    """(ids, uint8, of all texts end to end; offsets, int64 (n + 1,)); characters None: UTF-8 bytes."""
    if characters is None:
        pieces = [text.encode() for text in texts]
        ids = np.frombuffer(b"".join(pieces), np.uint8)
        return ids, np.cumsum([0, *map(len, pieces)])
    table = np.full(0x110000, UNKNOWN, np.uint8)
    table[[ord(c) for c in characters]] = np.arange(SPECIALS, SPECIALS + len(characters))
    points = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    return table[points], np.cumsum([0, *map(len, texts)])


def decode(ids: np.ndarray, characters: str | None) -> str:
    """The text of some ids, for people: unknown characters as U+FFFD, padding and end left out."""
    if characters is None:
        return bytes(ids).rstrip(b"\0").decode("utf-8", "replace")
    names = ["", "�", "", *characters]
    return "".join(names[i] for i in ids)
