"""Regression and forecasting: mean squared and mean absolute error. B batch, H target positions, C values."""

from typing import TYPE_CHECKING

from lra.objectives import significance
from lra.objectives.objective import Metric, Objective, Totals

if TYPE_CHECKING:
    from torch import Tensor


class Regression(Objective):
    """Outputs and targets are real values (B, H, C) or (B, C); the error of an example is its mean over all of them.

    squared, absolute  sums of the examples' errors
    squares            sum of the squares of the squared errors, for their spread
    independent        examples divided by H: windows of a series that overlap in less than their whole horizon
    The trivial score is the task's: the smaller error of repeating the last value and of the training mean.
    """

    name = "regression"
    metrics = (Metric("mse", "MSE", higher_is_better=False), Metric("mae", "MAE", higher_is_better=False))
    totals = ("squared", "absolute", "squares", "independent", "examples")
    trivial_answer = "giving the training mean, or repeating the last value where that is better"
    level = "the trivial score"

    def loss(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        from torch.nn.functional import mse_loss

        return mse_loss(outputs, targets)

    def add_up(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        import torch

        error = (outputs - targets).double().flatten(1)
        squared = error.square().mean(1)
        n = torch.full_like(squared, 1.0).sum()
        sums = [
            squared.sum(),
            error.abs().mean(1).sum(),
            squared.square().sum(),
            n / (targets.shape[1] if targets.dim() == 3 else 1),
            n,
        ]
        return torch.stack(sums)

    def scores(self, totals: Totals) -> dict[str, float]:
        n = max(totals["examples"], 1)
        return {"mse": totals["squared"] / n, "mae": totals["absolute"] / n}

    def beats_trivial(self, totals: Totals, trivial: float) -> bool:
        """One-sided t-test of the examples' squared errors, with as many degrees of freedom as independent examples."""
        return significance.mean_is_below(trivial, *self._moments(totals))

    def interval(self, totals: Totals) -> tuple[float, float]:
        """Student's t over independent examples."""
        return significance.mean_interval(*self._moments(totals))

    def p_equal(self, a: Totals, b: Totals) -> float:
        return significance.two_means(self._moments(a), self._moments(b))

    def _moments(self, totals: Totals) -> tuple[float, float, float]:
        """Mean and standard deviation of the examples' squared errors, and the number of independent examples."""
        mean = totals["squared"] / totals["examples"]
        return mean, max(totals["squares"] / totals["examples"] - mean**2, 0.0) ** 0.5, totals["independent"]


OBJECTIVE = Regression()
