"""The shared vocabulary: what a task is, and what one batch of it looks like."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class TaskSpec:
    """What a model must know of a task to be built and counted before any file is read.

    name        "listops"; the name of its file in configs/task
    max_len     positions of the longest example (of one document, if paired)
    n_classes   number of labels
    vocab_size  number of token ids, padding (id 0) included; None for real-valued input
    channels    values at each position of a real-valued input
    paired      one label belongs to two documents
    ragged      examples differ in length, so batches hold padding
    """

    name: str
    max_len: int
    n_classes: int
    vocab_size: int | None
    channels: int = 1
    paired: bool = False
    ragged: bool = False


class Batch(NamedTuple):
    """Examples side by side; real positions come first in each row, padding after them.

    x     (B, L) int64 tokens, or (B, L, channels) floats; paired: (2B, L), all first documents, then all second
    mask  (B, L) bool, True where real; paired: (2B, L)
    y     (B,) int64 labels
    """

    x: Tensor
    mask: Tensor
    y: Tensor

    def parts(self, n: int) -> "list[Batch]":
        """The same examples in order as `n` batches of nearly equal size, or as many as there are examples.

        A pair of documents stays together, and every part keeps the padding of the whole.
        """
        if n == 1:
            return [self]
        documents = len(self.x) // len(self.y)
        x, mask = (t.unflatten(0, (documents, -1)) for t in (self.x, self.mask))
        n = min(n, len(self.y))
        ends = [len(self.y) * i // n for i in range(n + 1)]
        return [
            Batch(x[:, a:b].flatten(0, 1), mask[:, a:b].flatten(0, 1), self.y[a:b]) for a, b in itertools.pairwise(ends)
        ]
