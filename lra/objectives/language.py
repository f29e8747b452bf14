"""Language modelling: cross-entropy of the next token, perplexity and bits. B batch, L positions, V tokens."""

import math
from typing import TYPE_CHECKING, ClassVar

from lra.objectives import significance
from lra.objectives.objective import Metric, Objective, Totals

if TYPE_CHECKING:
    from torch import Tensor

BITS = Metric("bits", "bits per token", higher_is_better=False)
PERPLEXITY = Metric("perplexity", "perplexity", higher_is_better=False, decimals=2)
NO_TARGET = -100  # of padded positions


def nats_in(metric: Metric, nats: float) -> float:
    """A mean negative log-likelihood as bits or perplexity."""
    if metric.name == "bits":
        return nats / math.log(2)
    return math.exp(min(nats, 700.0))  # the largest float is about exp(709)


class Language(Objective):
    """Outputs are scores of the next token (B, L, V), targets its id (B, L) int64, NO_TARGET where there is none.

    nats     sum of the negative log-likelihoods of all tokens
    tokens   their number
    means    sum of the examples' mean negative log-likelihoods
    squares  sum of the squares of these means, for their spread
    The trivial score is the cross-entropy under the frequencies of the training tokens.
    """

    name = "language"
    metrics: ClassVar[tuple[Metric, ...]] = (PERPLEXITY, BITS)
    totals = ("nats", "tokens", "means", "squares", "examples")
    trivial_answer = "giving each token its frequency in the training data"
    level = "the trivial score"
    per_token = True

    def loss(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        return self.nats(outputs, targets).sum() / (targets != NO_TARGET).sum().clamp(min=1)

    def nats(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        """Negative log-likelihood of each target (B, L), 0 where there is none."""
        from torch.nn.functional import cross_entropy

        if hasattr(outputs, "nats"):  # lra.nn.adaptive.Scores
            return outputs.nats(targets)
        return cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)

    def add_up(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        import torch

        nats = self.nats(outputs, targets).double().sum(1)
        tokens = (targets != NO_TARGET).sum(1).double()
        means = nats / tokens.clamp(min=1)
        return torch.stack([nats.sum(), tokens.sum(), means.sum(), means.square().sum(), torch.ones_like(means).sum()])

    def scores(self, totals: Totals) -> dict[str, float]:
        nats = totals["nats"] / max(totals["tokens"], 1)
        return {metric.name: nats_in(metric, nats) for metric in self.metrics}

    def beats_trivial(self, totals: Totals, trivial: float) -> bool:
        """One-sided t-test of the examples' mean negative log-likelihoods."""
        nats = trivial * math.log(2) if self.metric.name == "bits" else math.log(trivial)
        return significance.mean_is_below(nats, *self._moments(totals))

    def interval(self, totals: Totals) -> tuple[float, float]:
        """Student's t over examples."""
        low, high = significance.mean_interval(*self._moments(totals))
        return nats_in(self.metric, low), nats_in(self.metric, high)

    def p_equal(self, a: Totals, b: Totals) -> float:
        return significance.two_means(self._moments(a), self._moments(b))

    def _moments(self, totals: Totals) -> tuple[float, float, float]:
        """Mean and standard deviation of the examples' mean negative log-likelihoods, and their number."""
        n = totals["examples"]
        mean = totals["means"] / n
        return mean, max(totals["squares"] / n - mean**2, 0.0) ** 0.5, n


OBJECTIVE = Language()
