"""What a record shows beside numbers: test inputs with predictions, and kernels before and after training.

Pictures are PNG files in base64, so that JSON holds them and a page shows them as they are.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A test input as a reader sees it, text or a grey picture, with its label and the prediction.

    probability  that the model gave the predicted label
    """

    label: int
    predicted: int
    probability: float | None = None
    text: str | None = None
    picture: str | None = None


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """The convolution kernel of one feature before and after training: the weight of an input so many positions ago.

    layer, feature  counted from 0, among the layers that have kernels
    length          positions
    starts          first position of each range, the ranges growing wider
    before, after   [lowest value in each range, highest value in each range]
    picture_before, picture_after  the kernel laid out as the image whose rows make the sequence; None for other inputs
    """

    layer: int
    feature: int
    length: int
    starts: list[int]
    before: list[list[float]]
    after: list[list[float]]
    picture_before: str | None = None
    picture_after: str | None = None


def contradictions(examples: list[Example], kernels: list[Kernel]) -> Iterator[tuple[str, Any, str]]:
    """(field, value, why) of everything that cannot be."""
    for i, e in enumerate(examples):
        if e.probability is not None and not 0 <= e.probability <= 1:
            yield f"examples[{i}].probability", e.probability, "a probability lies in [0, 1]"
        if e.picture is not None and not BASE64.fullmatch(e.picture):
            yield f"examples[{i}].picture", e.picture, "a picture is written in base64"
    for i, k in enumerate(kernels):
        if any(a >= b for a, b in zip(k.starts, k.starts[1:], strict=False)):
            yield f"kernels[{i}].starts", k.starts, "positions must increase"
        for name in ("before", "after"):
            if [len(line) for line in getattr(k, name)] != [len(k.starts)] * 2:
                yield f"kernels[{i}].{name}", getattr(k, name), f"two lists of {len(k.starts)} values are expected"
        for name in ("picture_before", "picture_after"):
            if (picture := getattr(k, name)) is not None and not BASE64.fullmatch(picture):
                yield f"kernels[{i}].{name}", picture, "a picture is written in base64"
