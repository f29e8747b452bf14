"""The tests behind the signs in the tables, each exact or with its approximation named."""

import math
from collections.abc import Sequence

from scipy.special import bdtrc, betaincinv, stdtr, stdtrit

# a run has learned if so many right answers, or more, had less than this probability at chance
CHANCE_LEVEL = 0.001
# two results differ if so large a difference, in either direction, has less than this probability
DIFFERENCE_LEVEL = 0.05


def beats_chance(correct: int, n: int, chance: float) -> bool:
    """Exact one-sided binomial test: would always answering the commonest label be right `correct` times of n?"""
    return bool(bdtrc(correct - 1, n, chance) < CHANCE_LEVEL)


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None of fewer than two values."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def interval(values: Sequence[float], correct: int, n: int) -> tuple[float, float]:
    """95 % confidence interval of an accuracy: Student's t over seeds; of one seed, Clopper-Pearson over n examples."""
    if len(values) > 1:
        half = float(stdtrit(len(values) - 1, 0.975)) * (deviation(values) or 0.0) / math.sqrt(len(values))
        return mean(values) - half, mean(values) + half
    low = float(betaincinv(correct, n - correct + 1, 0.025)) if correct > 0 else 0.0
    high = float(betaincinv(correct + 1, n - correct, 0.975)) if correct < n else 1.0
    return low, high


def welch(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of equal means, variances unequal (Welch); needs two values or more of each."""
    variance_a, variance_b = ((deviation(v) or 0.0) ** 2 / len(v) for v in (a, b))
    spread = variance_a + variance_b
    gap = abs(mean(a) - mean(b))
    if spread == 0:
        return 1.0 if gap == 0 else 0.0
    freedom = spread**2 / (variance_a**2 / (len(a) - 1) + variance_b**2 / (len(b) - 1))
    return float(2 * stdtr(freedom, -gap / math.sqrt(spread)))


def two_proportions(correct_a: int, n_a: int, correct_b: int, n_b: int) -> float:
    """Two-sided p of equal proportions, by the pooled normal approximation."""
    pooled = (correct_a + correct_b) / (n_a + n_b)
    spread = pooled * (1 - pooled) * (1 / n_a + 1 / n_b)
    gap = abs(correct_a / n_a - correct_b / n_b)
    return math.erfc(gap / math.sqrt(2 * spread)) if spread > 0 else 1.0
