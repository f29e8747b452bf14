"""The contract of an objective: the loss, the metrics with exact totals, and what counts as having learned nothing.

A task names its objective in `TaskSpec.objective`; the file lra/objectives/<name>.py defines OBJECTIVE. Nothing here
imports torch before it is needed, so that records and tables are read quickly.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lra.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Totals = Mapping[str, float]


@dataclass(frozen=True)
class Metric:
    """A number that a model is measured by.

    name      key in totals, curves and W&B: "accuracy"
    title     in tables and sentences: "accuracy", "MSE"
    percent   shown as a percentage; otherwise as it is
    decimals  digits after the point in tables
    """

    name: str
    title: str
    higher_is_better: bool
    percent: bool = False
    decimals: int = 3

    def text(self, value: float, decimals: int | None = None) -> str:
        """The number as tables print it: 71.25 (percent) or 0.081."""
        return f"{value * (100 if self.percent else 1):.{self.decimals if decimals is None else decimals}f}"

    def with_unit(self, value: float) -> str:
        return self.text(value) + (" %" if self.percent else "")

    def better(self, a: float, b: float) -> bool:
        return a > b if self.higher_is_better else a < b

    @property
    def unit(self) -> str:
        return "percent" if self.percent else "lower is better"


class Objective(ABC):
    """What a model is trained for. Totals add up exactly over batches and processes.

    name            of its file
    metrics         the first one chooses the checkpoint and fills the tables
    totals          names of the sums over examples that the metrics follow from; the last one is "examples"
    trivial_answer  the best answer that ignores the input, whose score a model must beat to have learned
    level           what the score of that answer is called
    hides_failures  a run that does not beat the trivial answer has no score in tables, as in the papers
    per_token       there is a token to predict at each position
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    totals: ClassVar[tuple[str, ...]]
    trivial_answer: ClassVar[str]
    level: ClassVar[str]
    hides_failures: ClassVar[bool] = False
    per_token: ClassVar[bool] = False

    @property
    def metric(self) -> Metric:
        return self.metrics[0]

    @abstractmethod
    def loss(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        """Mean loss over a batch, differentiable."""

    @abstractmethod
    def add_up(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        """Totals of a batch, float64, on its device."""

    @abstractmethod
    def scores(self, totals: Totals) -> dict[str, float]:
        """Value of each metric; accuracies in [0, 1]."""

    def score(self, totals: Totals) -> float:
        """Value of the first metric."""
        return self.scores(totals)[self.metric.name]

    @abstractmethod
    def beats_trivial(self, totals: Totals, trivial: float) -> bool:
        """Whether a test says that these results are better than the trivial answer's score."""

    @abstractmethod
    def interval(self, totals: Totals) -> tuple[float, float]:
        """95 % confidence interval of the first metric over the examples of one test."""

    @abstractmethod
    def p_equal(self, a: Totals, b: Totals) -> float:
        """Two-sided p-value for two models with single runs to be equally good."""

    def problem(self, totals: Totals) -> str | None:
        """Why these totals are impossible; None if they are not."""
        if set(totals) != set(self.totals):
            return f"totals are {', '.join(totals)}; expected {', '.join(self.totals)}"
        return None if totals["examples"] >= 1 else "no example"

    def result(self, totals: Totals) -> str:
        """The result in words: test accuracy 71.25 % (57 of 80)."""
        scores = self.scores(totals)
        return ", ".join(f"{metric.title} {metric.with_unit(scores[metric.name])}" for metric in self.metrics)


def objectives() -> list[Objective]:
    """Every objective of lra/objectives, by name."""
    names = [path.stem for path in sorted(Path(__file__).parent.glob("[!_]*.py"))]
    modules = [importlib.import_module(f"lra.objectives.{name}") for name in names]
    return [module.OBJECTIVE for module in modules if hasattr(module, "OBJECTIVE")]


@cache
def objective_of(name: str) -> Objective:
    """The objective in lra/objectives/<name>.py; UserError if there is none."""
    known = [path.stem for path in sorted(Path(__file__).parent.glob("*.py"))]
    if name not in known or not hasattr(module := importlib.import_module(f"lra.objectives.{name}"), "OBJECTIVE"):
        raise UserError(f"objective {name!r}: there is no lra/objectives/{name}.py with an OBJECTIVE")
    found: Objective = module.OBJECTIVE
    return found
