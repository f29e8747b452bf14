"""Tasks of predicting the next token: rows predicted from their beginnings, and windows of a long text.

An input token is the target before it plus 1; 0 begins a row or a text, and pads. So a model has one more input token
than outputs. n examples, L positions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.datamodule import TaskData
from data.loader import Examples
from lra.objectives.language import NO_TARGET, nats_in
from lra.objectives.objective import objective_of
from lra.task import Batch

START = 0  # input where nothing comes before


@dataclass(frozen=True)
class Rows(Examples):
    """Rows of equal length, uint8 (n, L), each predicted from its beginning."""

    def gather(self, index: Tensor, length: int) -> Batch:
        y = self.x[index].long()
        return Batch(F.pad(y[:, :-1] + 1, (1, 0), value=START), torch.ones_like(y, dtype=torch.bool), y)

    def targets(self, index: np.ndarray) -> Tensor:
        return self.x[torch.from_numpy(index)].flatten()


@dataclass(frozen=True)
class Windows(Examples):
    """Windows of a stream of tokens (T,), in which each token of a split is predicted once.

    starts, ends  positions of the stream that a window predicts, int64 (n,)
    begins        where the split of a window begins: no token before it is an input, int64 (n,)
    """

    starts: Tensor = None  # type: ignore[assignment]
    ends: Tensor = None  # type: ignore[assignment]
    begins: Tensor = None  # type: ignore[assignment]

    def document(self, i: int) -> np.ndarray:
        return self.x[self.starts[i] : self.ends[i]].numpy()

    def lengths(self) -> np.ndarray:
        return (self.ends - self.starts).cpu().numpy()

    def gather(self, index: Tensor, length: int) -> Batch:
        """A token before the window is the first input, if it belongs to the split."""
        at = self.starts[index][:, None] + torch.arange(self.max_len, device=index.device)
        mask = at < self.ends[index][:, None]
        y = self.x[at.clamp(max=len(self.x) - 1)].long()
        first = self.starts[index] - 1
        before = torch.where(first >= self.begins[index], self.x[first.clamp(min=0)].long() + 1, START)
        x = torch.cat([before[:, None], y[:, :-1] + 1], 1)
        return Batch(x.masked_fill(~mask, START), mask, y.masked_fill(~mask, NO_TARGET))

    def targets(self, index: np.ndarray) -> Tensor:
        return torch.cat([self.x[self.starts[i] : self.ends[i]] for i in index.tolist()])


class NextTokenTask(TaskData):
    """Base of the tasks that predict the next token."""

    def trivial_score(self, split: str) -> float:
        """Of giving each token its frequency in the training data, one added to each count."""
        n = self.spec.n_outputs
        train, other = (self._counts(name, n) for name in ("train", split))
        frequencies = (train + 1) / (train.sum() + n)
        return nats_in(
            objective_of(self.spec.objective).metric, float(-(other * np.log(frequencies)).sum() / other.sum())
        )

    def neighbour_score(self, split: str, distance: int) -> float:
        """Of giving each token its frequency after the token `distance` before it, one added to each count.

        The first tokens, which have no such neighbour, are given their own frequencies.
        """
        n, examples = self.spec.n_outputs, self.opened.examples
        counts = {}
        for name in ("train", split):
            counts[name] = np.zeros((n + 1) * n, np.int64)
            for rows in np.array_split(self.opened.index[name], max(1, len(self.opened.index[name]) // 1000)):
                batch = examples.gather(torch.from_numpy(rows), self.spec.max_len)
                # the input at a position is the token before it; 0 where there is none
                before = F.pad(batch.x, (distance - 1, 0))[:, : batch.x.shape[1]]
                known = batch.y != NO_TARGET
                counts[name] += np.bincount((before * n + batch.y)[known].numpy(), minlength=len(counts[name]))
        train, other = (counts[name].reshape(n + 1, n) for name in ("train", split))
        frequencies = (train + 1) / (train.sum(1, keepdims=True) + n)
        nats = float(-(other * np.log(frequencies)).sum() / other.sum())
        return nats_in(objective_of(self.spec.objective).metric, nats)

    def _counts(self, split: str, n: int) -> np.ndarray:
        examples: Any = self.opened.examples
        return np.bincount(examples.targets(self.opened.index[split]).numpy(), minlength=n)
