"""Objectives: loss and exact totals against their definitions, and the test of having learned."""

import math

import pytest
import torch
from torch import nn

from lra.errors import UserError
from lra.nn.heads import Head, PositionDecoder
from lra.objectives.language import NO_TARGET
from lra.objectives.objective import objective_of
from lra.task import TaskSpec

EXAMPLES = {
    "classification": (torch.randn(60, 5), torch.arange(60) % 5),
    "regression": (torch.randn(60, 7, 2), torch.randn(60, 7, 2)),
    "language": (torch.randn(60, 7, 5), torch.randint(0, 5, (60, 7))),
    "density": (torch.randn(60, 7, 5), torch.randint(0, 5, (60, 7))),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_totals_of_parts_add_up(name):
    objective, (outputs, targets) = objective_of(name), EXAMPLES[name]
    whole = objective.add_up(outputs, targets)
    parts = sum(objective.add_up(outputs[i : i + 7], targets[i : i + 7]) for i in range(0, 60, 7))
    torch.testing.assert_close(parts, whole)
    totals = dict(zip(objective.totals, whole.tolist(), strict=True))
    assert totals["examples"] == 60
    assert objective.problem(totals) is None
    assert set(objective.scores(totals)) == {metric.name for metric in objective.metrics}
    assert "expected" in objective.problem({"examples": 60})
    assert objective.problem({**totals, "examples": 0}) == "no example"
    low, high = objective.interval(totals)
    assert low < objective.score(totals) < high


def test_classification_counts_right_answers():
    objective, (scores, labels) = objective_of("classification"), EXAMPLES["classification"]
    correct = sum(int(row.argmax()) == int(label) for row, label in zip(scores, labels, strict=True))
    assert objective.add_up(scores, labels).tolist() == [correct, 60]
    assert objective.loss(scores, labels) == nn.CrossEntropyLoss()(scores, labels)
    assert objective.result({"correct": 57, "examples": 80}) == "accuracy 71.25 % (57 of 80)"
    assert objective.problem({"correct": 81, "examples": 80}) == "81 correct of 80"


def test_regression_errors_are_means_over_all_values():
    objective, (outputs, targets) = objective_of("regression"), EXAMPLES["regression"]
    totals = dict(zip(objective.totals, objective.add_up(outputs, targets).tolist(), strict=True))
    error = (outputs - targets).double()
    assert objective.scores(totals) == pytest.approx(
        {"mse": error.square().mean().item(), "mae": error.abs().mean().item()}
    )
    assert objective.loss(outputs, targets).item() == pytest.approx(error.square().mean().item(), rel=1e-5)
    assert totals["independent"] == pytest.approx(60 / 7)


@pytest.mark.parametrize(
    ("gap", "horizon", "learned"), [(0.2, 1, True), (0.0, 1, False), (0.2, 60, False), (-0.2, 1, False)]
)
def test_regression_needs_a_significant_gain(gap, horizon, learned):
    """A mean error of 1 with deviation 0.2 over 60 windows, which overlap unless the horizon is 1."""
    squared = 1 + 0.2 * torch.linspace(-1, 1, 60).sign()
    outputs = squared.sqrt()[:, None, None].expand(60, horizon, 1)
    objective = objective_of("regression")
    totals = dict(zip(objective.totals, objective.add_up(outputs, torch.zeros_like(outputs)).tolist(), strict=True))
    assert objective.beats_trivial(totals, 1 + gap) == learned
    assert objective.p_equal(totals, totals) == pytest.approx(1.0)


def test_perplexity_and_bits_are_those_of_all_tokens():
    outputs, targets = (part.clone() for part in EXAMPLES["language"])
    targets[3, 2:] = NO_TARGET
    known = targets != NO_TARGET
    nats = nn.functional.cross_entropy(outputs[known].double(), targets[known]).item()
    language, density = objective_of("language"), objective_of("density")
    assert language.loss(outputs, targets).item() == pytest.approx(nats, rel=1e-5)
    for objective, expected in ((language, math.exp(nats)), (density, nats / math.log(2))):
        totals = dict(zip(objective.totals, objective.add_up(outputs, targets).tolist(), strict=True))
        assert totals["tokens"] == 60 * 7 - 5
        assert objective.score(totals) == pytest.approx(expected, rel=1e-5)
        assert objective.beats_trivial(totals, 1.5 * expected)
        assert not objective.beats_trivial(totals, 1.001 * expected)
        assert not objective.beats_trivial(totals, 0.9 * expected)
        low, high = objective.interval(totals)
        assert low < expected < high
    assert set(language.scores(totals)) == {"perplexity", "bits"}


def test_unknown_objective_is_one_line():
    for name in ("significance", "nonsense", "../task"):
        with pytest.raises(UserError, match="there is no lra/objectives/"):
            objective_of(name)


def test_heads_follow_the_task():
    x, mask = torch.randn(3, 10, 4), torch.ones(3, 10, dtype=torch.bool)
    last = TaskSpec("series", 10, 2, None, objective="regression", horizon=4)
    decoder = PositionDecoder(last, 4)
    torch.testing.assert_close(decoder(x, mask), torch.stack([decoder.decoder(x[:, i]) for i in range(6, 10)], 1))
    assert Head(TaskSpec("pooled", 10, 2, None), 4)(x, mask).shape == (3, 2)
    assert last.random_targets(3).shape == (3, 4, 2)
    dated = TaskSpec("dated", 10, 2, None, channels=3, categories=(7, 24), objective="regression", horizon=4)
    assert dated.random_input(5).shape == (5, 10, 5)
    assert dated.random_input(5)[..., 4].max() < 24
