"""Task specification and batch: the types that data, models and training share."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class TaskSpec:
    """Shapes and vocabulary of a task, known before any file is read.

    name        "listops"; the name of its file in configs/task
    max_len     positions of the longest example (of one document, if paired)
    n_classes   number of labels
    vocab_size  number of token ids, padding (id 0) included; None for real-valued input
    channels    values at each position of a real-valued input
    paired      one label belongs to two documents
    ragged      examples differ in length, so batches have padding
    """

    name: str
    max_len: int
    n_classes: int
    vocab_size: int | None
    channels: int = 1
    paired: bool = False
    ragged: bool = False


class Batch(NamedTuple):
    """A batch of examples; each row has its real positions first, then padding.

    x     (B, L) int64 tokens, or (B, L, channels) floats; paired: (2B, L), all first documents, then all second
    mask  (B, L) bool, True where real; paired: (2B, L)
    y     (B,) int64 labels
    """

    x: Tensor
    mask: Tensor
    y: Tensor

    def micro_batches(self, n: int) -> "list[Batch]":
        """Split into `n` batches of nearly equal size, in order, or into one for each example if there are fewer.

        Pairs of documents stay together; the padded length stays the same.
        """
        if n == 1:
            return [self]
        documents = len(self.x) // len(self.y)
        x, mask = (t.unflatten(0, (documents, -1)) for t in (self.x, self.mask))
        n = min(n, len(self.y))
        bounds = pairwise(len(self.y) * i // n for i in range(n + 1))
        return [Batch(x[:, a:b].flatten(0, 1), mask[:, a:b].flatten(0, 1), self.y[a:b]) for a, b in bounds]
