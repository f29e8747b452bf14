"""Heads: pooling and a classifier, or a decoder of positions. B batch, L length, D width."""

from typing import Any

import torch
from torch import Tensor, nn

from lra.nn.adaptive import AdaptiveVocabulary, Scores
from lra.task import TaskSpec


def pool_sequence(x: Tensor, mask: Tensor, how: str) -> Tensor:
    """One vector per sequence, from its real positions: (B, L, D), (B, L) -> (B, D)."""
    if how == "mean":
        real = mask[..., None].to(x.dtype)
        return (x * real).sum(1) / real.sum(1)
    if how == "last":
        last = mask.sum(1) - 1
        return x.take_along_dim(last[:, None, None], dim=1).squeeze(1)
    return x[:, 0]  # first, cls


class Head(nn.Module):
    """Pooling, then a linear classifier or one with a hidden layer.

    Two documents with one label (LRA Retrieval; Tay et al. 2021, section 2.2.3) become features [a, b, a * b, a - b]
    and always get a hidden layer, as in the S4 repository's pair decoder.
    """

    def __init__(self, spec: TaskSpec, d_input: int, *, pool: str = "mean", hidden: int = 0):
        super().__init__()
        if pool not in ("mean", "last", "first", "cls"):
            raise ValueError(f"pool: {pool!r} is not one of mean, last, first, cls")
        self.pool, self.paired = pool, spec.paired
        if spec.paired:
            hidden, d_input = hidden or d_input, 4 * d_input
        self.classifier: nn.Module
        if hidden:
            self.classifier = nn.Sequential(nn.Linear(d_input, hidden), nn.GELU(), nn.Linear(hidden, spec.n_outputs))
        else:
            self.classifier = nn.Linear(d_input, spec.n_outputs)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D) -> (B, n_outputs); paired: (2B, L, D) -> (B, n_outputs)."""
        h = pool_sequence(x, mask, self.pool)
        if self.paired:
            a, b = h.chunk(2)
            h = torch.cat([a, b, a * b, a - b], dim=-1)
        return self.classifier(h)


class PositionDecoder(nn.Module):
    """A linear map of each of the last `spec.horizon` positions: every position if that is the whole input."""

    def __init__(self, spec: TaskSpec, d_input: int):
        super().__init__()
        self.horizon = spec.horizon
        self.decoder = nn.Linear(d_input, spec.n_outputs)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D) -> (B, horizon, n_outputs)."""
        return self.every(x[:, -self.horizon :])

    def every(self, x: Tensor) -> Tensor:
        """The prediction at each given position: (..., D) -> (..., n_outputs)."""
        return self.decoder(x)


class AdaptiveDecoder(PositionDecoder):
    """An adaptive softmax, whose weights are those of the embedding, at each of the last `spec.horizon` positions."""

    def __init__(self, spec: TaskSpec, vocabulary: AdaptiveVocabulary):
        nn.Module.__init__(self)
        self.horizon = spec.horizon
        self._vocabulary = (vocabulary,)  # a part of the embedding: not registered a second time

    def every(self, x: Tensor) -> Any:
        """`Scores` of the next word at each position (..., D)."""
        return Scores(x, self._vocabulary[0])
