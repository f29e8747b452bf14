"""Task specification and batch: the types that data, models and training share."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class TaskSpec:
    """Shapes and vocabulary of a task, known before any file is read.

    name        "listops"; the name of its file in configs/task
    max_len     positions of the longest example (of one document, if paired)
    n_outputs   number of labels, or values predicted for an example or at each position
    vocab_size  number of token ids, padding (id 0) included; None for real-valued input
    channels    values at each position of a real-valued input
    categories  sizes of categorical features, such as the hour of the day, that follow the values as whole numbers
    objective   name of a file in lra/objectives
    horizon     the last positions of the input, for each of which there is a prediction; 0: one for the whole input
    paired      one label belongs to two documents
    ragged      examples differ in length, so batches have padding
    causal      no output may depend on a later input: each predicts the token that follows
    """

    name: str
    max_len: int
    n_outputs: int
    vocab_size: int | None
    channels: int = 1
    categories: tuple[int, ...] = ()
    objective: str = "classification"
    horizon: int = 0
    paired: bool = False
    ragged: bool = False
    causal: bool = False

    @property
    def width(self) -> int:
        """Numbers at each position of a real-valued input."""
        return self.channels + len(self.categories)

    def random_input(self, n: int) -> Tensor:
        """Inputs x of n rows of full length, for measurements."""
        if self.vocab_size is not None:
            return torch.randint(1, self.vocab_size, (n, self.max_len))
        features = [torch.randint(0, size, (n, self.max_len, 1)) for size in self.categories]
        return torch.cat([torch.randn(n, self.max_len, self.channels), *features], -1)

    def random_targets(self, n: int) -> Tensor:
        """Targets y of n examples, for measurements."""
        shape = (n, self.horizon) if self.horizon else (n,)
        if self.objective == "regression":
            return torch.randn(*shape, self.n_outputs)
        return torch.randint(0, self.n_outputs, shape)


class Batch(NamedTuple):
    """A batch of examples; each row has its real positions first, then padding.

    x     (B, L) int64 tokens, or (B, L, channels + categories) floats; paired: (2B, L), all first documents, then all
          second
    mask  (B, L) bool, True where real; paired: (2B, L)
    y     (B,) int64 labels, or (B, horizon, n_outputs) floats, or (B, horizon) int64 tokens
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
