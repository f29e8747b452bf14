"""Adaptive input embedding and adaptive softmax for large vocabularies, with shared weights.

Baevski and Auli 2019, arXiv:1809.10853; Grave et al. 2017, arXiv:1609.04309. Words are sorted by falling frequency and
cut into clusters; cluster i has vectors that are `div`**i times as narrow as the model. The softmax is over the words
of the first cluster and one entry for each other cluster, then over the words of that cluster.
B batch, L length, D model width, V words.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.objectives.language import NO_TARGET
from lra.ops.precision import at_least_float32


class AdaptiveVocabulary(nn.Module):
    """Vectors of words, as input and as output. Input ids are those of the words plus 1; 0 is the start of a text.

    n_words     V
    cutoffs     first word of each cluster but the first
    div         by how much each cluster is narrower than the one before
    dropout     of the vectors that enter the model, and of the hidden vectors before the softmax
    raises      ValueError for cutoffs that are not increasing, or a cluster without width
    """

    def __init__(self, n_words: int, d_model: int, *, cutoffs: Sequence[int], div: int = 4, dropout: float = 0.0):
        super().__init__()
        self.bounds = [0, *cutoffs, n_words]
        if any(a >= b for a, b in pairwise(self.bounds)):
            raise ValueError(f"cutoffs: {list(cutoffs)} do not increase between 0 and the {n_words} words")
        sizes = [b - a for a, b in pairwise(self.bounds)]
        widths = [d_model // div**i for i in range(len(sizes))]
        if not widths[-1]:
            raise ValueError(f"cutoffs: {len(sizes)} clusters with div {div} need a width of {div ** (len(sizes) - 1)}")
        self.d_model, self.dropout = d_model, dropout
        self.tables = nn.ModuleList(map(nn.Embedding, sizes, widths))
        self.projections = nn.ModuleList(nn.Linear(width, d_model, bias=False) for width in widths)
        self.biases = nn.ParameterList(torch.zeros(size) for size in sizes)
        self.clusters = nn.Linear(d_model, len(sizes) - 1)
        self.start = nn.Parameter(torch.zeros(d_model))
        for table, projection, width in zip(self.tables, self.projections, widths, strict=True):
            nn.init.normal_(cast(Tensor, table.weight), std=width**-0.5)
            nn.init.normal_(cast(Tensor, projection.weight), std=d_model**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Input ids (...) -> vectors (..., D), of unit variance."""
        words = x.flatten() - 1
        y = self.start.repeat(len(words), 1)
        for table, projection, (a, b) in zip(self.tables, self.projections, pairwise(self.bounds), strict=True):
            rows = ((words >= a) & (words < b)).nonzero().squeeze(-1)
            y = y.index_copy(0, rows, projection(table(words[rows] - a)).to(y.dtype))
        y = y * self.d_model**0.5
        return F.dropout(y, self.dropout, self.training).view(*x.shape, -1)

    def head(self, hidden: Tensor) -> Tensor:
        """Log-probabilities of the first cluster's words and of the other clusters: (n, D) -> (n, words + clusters)."""
        return at_least_float32(torch.cat([self._logits(hidden, 0), self.clusters(hidden)], -1)).log_softmax(-1)

    def tail(self, hidden: Tensor, i: int) -> Tensor:
        """Log-probabilities of the words of cluster i, given the cluster: (n, D) -> (n, words)."""
        return at_least_float32(self._logits(hidden, i)).log_softmax(-1)

    def _logits(self, hidden: Tensor, i: int) -> Tensor:
        projection, table = (cast(Tensor, part[i].weight).to(hidden.dtype) for part in (self.projections, self.tables))
        return F.linear(hidden @ projection, table, self.biases[i].to(hidden.dtype))

    def nats(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood of each target: (B, L, D), (B, L) -> (B, L), 0 where there is none."""
        words, rows = targets.flatten(), hidden.flatten(0, -2)
        known = (words != NO_TARGET).nonzero().squeeze(-1)
        head = self.head(rows[known])
        found = words[known]
        entry = torch.bucketize(found, torch.tensor(self.bounds[1:-1], device=found.device), right=True)
        first = self.bounds[1]
        logs = head.gather(1, torch.where(entry == 0, found, first + entry - 1)[:, None]).squeeze(1)
        for i in range(1, len(self.tables)):
            at = (entry == i).nonzero().squeeze(-1)
            tail = self.tail(rows[known[at]], i).gather(1, (found[at] - self.bounds[i])[:, None]).squeeze(1)
            logs = logs.index_add(0, at, tail)
        return -logs.new_zeros(len(words)).index_copy(0, known, logs).view_as(targets)

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """Of all words: (..., D) -> (..., V)."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        head, first = self.head(rows), self.bounds[1]
        tails = [head[:, first + i - 1, None] + self.tail(rows, i) for i in range(1, len(self.tables))]
        return torch.cat([head[:, :first], *tails], -1).view(*hidden.shape[:-1], -1)


class Scores:
    """Outputs of a model with an adaptive softmax: hidden vectors, whose scores are computed when targets are known.

    It has the few methods of a tensor that training uses.
    """

    def __init__(self, hidden: Tensor, vocabulary: AdaptiveVocabulary):
        self.hidden, self.vocabulary = hidden, vocabulary

    def nats(self, targets: Tensor) -> Tensor:
        hidden = F.dropout(self.hidden, self.vocabulary.dropout, self.vocabulary.training)
        return self.vocabulary.nats(hidden, targets)

    def float(self) -> "Scores":
        return self

    def detach(self) -> "Scores":
        return Scores(self.hidden.detach(), self.vocabulary)
