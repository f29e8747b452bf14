"""Classification: cross-entropy and accuracy. B batch, C classes."""

from typing import TYPE_CHECKING

from lra.objectives import significance
from lra.objectives.objective import Metric, Objective, Totals

if TYPE_CHECKING:
    from torch import Tensor


class Classification(Objective):
    """Outputs are scores (B, C), targets labels (B,) int64. The trivial score is the share of the commonest label."""

    name = "classification"
    metrics = (Metric("accuracy", "accuracy", higher_is_better=True, percent=True, decimals=2),)
    totals = ("correct", "examples")
    trivial_answer = "always giving the commonest label"
    level = "chance"
    hides_failures = True

    def loss(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, targets)

    def add_up(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        import torch

        correct = (outputs.argmax(-1) == targets).sum()
        return torch.stack([correct, torch.full_like(correct, len(targets))]).double()

    def scores(self, totals: Totals) -> dict[str, float]:
        return {"accuracy": totals["correct"] / max(totals["examples"], 1)}

    def beats_trivial(self, totals: Totals, trivial: float) -> bool:
        """Exact one-sided binomial test."""
        return significance.beats_chance(int(totals["correct"]), int(totals["examples"]), trivial)

    def interval(self, totals: Totals) -> tuple[float, float]:
        """Clopper-Pearson."""
        return significance.clopper_pearson(int(totals["correct"]), int(totals["examples"]))

    def p_equal(self, a: Totals, b: Totals) -> float:
        return significance.two_proportions(*(int(t[name]) for t in (a, b) for name in ("correct", "examples")))

    def problem(self, totals: Totals) -> str | None:
        wrong = super().problem(totals)
        if wrong is None and not 0 <= totals["correct"] <= totals["examples"]:
            return f"{totals['correct']} correct of {totals['examples']}"
        return wrong

    def result(self, totals: Totals) -> str:
        return f"{super().result(totals)} ({totals['correct']:.0f} of {totals['examples']:.0f})"


OBJECTIVE = Classification()
