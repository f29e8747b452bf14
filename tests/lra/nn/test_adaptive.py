"""Adaptive embedding and softmax against their definitions."""

import pytest
import torch

from lra.nn.adaptive import AdaptiveVocabulary, Scores
from lra.objectives.language import NO_TARGET
from lra.objectives.objective import objective_of


@pytest.fixture
def vocabulary() -> AdaptiveVocabulary:
    torch.manual_seed(0)
    return AdaptiveVocabulary(20, 8, cutoffs=[5, 12], div=2).double()


def test_probabilities_add_up_to_one(vocabulary):
    hidden = torch.randn(3, 4, 8, dtype=torch.float64)
    logs = vocabulary.log_probabilities(hidden)
    assert logs.shape == (3, 4, 20)
    torch.testing.assert_close(logs.exp().sum(-1), torch.ones(3, 4, dtype=torch.float64))


def test_nats_are_those_of_all_probabilities(vocabulary):
    hidden = torch.randn(3, 7, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 20, (3, 7))
    targets[1, 4:] = NO_TARGET
    known = targets != NO_TARGET
    expected = -vocabulary.log_probabilities(hidden).gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1) * known
    nats = vocabulary.nats(hidden, targets)
    torch.testing.assert_close(nats, expected)
    parameters = [hidden, *(p for name, p in vocabulary.named_parameters() if name != "start")]
    gradients = (torch.autograd.grad(value.sum(), parameters, retain_graph=True) for value in (nats, expected))
    for ours, definition in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, definition)


def test_a_word_has_the_vector_of_its_cluster(vocabulary):
    x = torch.tensor([[0, 1, 6, 20]])  # start of a text, words 0, 5 and 19
    vectors = vocabulary(x)[0]
    for at, (cluster, row) in zip(vectors[1:], ((0, 0), (1, 0), (2, 7)), strict=True):
        table, projection = vocabulary.tables[cluster], vocabulary.projections[cluster]
        torch.testing.assert_close(at, projection(table.weight[row]) * 8**0.5)
    assert not vectors[0].any()
    assert [table.weight.shape for table in vocabulary.tables] == [(5, 8), (7, 4), (8, 2)]


def test_the_objective_takes_its_scores(vocabulary):
    hidden, targets = torch.randn(3, 7, 8, dtype=torch.float64), torch.randint(0, 20, (3, 7))
    objective = objective_of("language")
    logs = vocabulary.log_probabilities(hidden)
    scores = Scores(hidden, vocabulary)
    torch.testing.assert_close(objective.loss(scores, targets), objective.loss(logs, targets))
    torch.testing.assert_close(objective.add_up(scores.detach().float(), targets), objective.add_up(logs, targets))


@pytest.mark.parametrize("cutoffs", [[5, 5], [0, 3], [7, 20], [5, 8, 12, 16]])
def test_wrong_cutoffs(cutoffs):
    with pytest.raises(ValueError, match="cutoffs"):
        AdaptiveVocabulary(20, 8, cutoffs=cutoffs, div=3)
