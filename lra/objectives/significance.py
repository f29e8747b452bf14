"""Significance tests behind the signs in the tables, by scipy.stats."""

import math
import statistics
from collections.abc import Sequence

# scipy.stats takes a second to import, and only these functions need it: they import it themselves

# a run has learned if its number of right answers, or more, has a lower probability than this at chance
CHANCE_LEVEL = 0.001
# two results differ if a difference as large, in either direction, has a lower probability than this
DIFFERENCE_LEVEL = 0.05


def beats_chance(correct: int, n: int, chance: float) -> bool:
    """Exact one-sided binomial test against always answering the commonest label, which is right with `chance`."""
    from scipy import stats

    return bool(stats.binomtest(correct, n, chance, alternative="greater").pvalue < CHANCE_LEVEL)


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the mean over seeds by Student's t; needs at least two values."""
    from scipy import stats

    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def clopper_pearson(correct: int, n: int) -> tuple[float, float]:
    """95 % confidence interval of an accuracy over n examples."""
    from scipy import stats

    exact = stats.binomtest(correct, n).proportion_ci(0.95, method="exact")
    return float(exact.low), float(exact.high)


Moments = tuple[float, float, float]  # mean, standard deviation, number of independent examples


def mean_is_below(bound: float, mean: float, deviation: float, n: float) -> bool:
    """One-sided t-test of a mean against a bound, at CHANCE_LEVEL; False for fewer than two independent examples."""
    from scipy import stats

    if n < 2 or deviation == 0:
        return n >= 2 and mean < bound
    return bool(stats.t.cdf((mean - bound) / (deviation / math.sqrt(n)), n - 1) < CHANCE_LEVEL)


def mean_interval(mean: float, deviation: float, n: float) -> tuple[float, float]:
    """95 % confidence interval of a mean over independent examples; unbounded for fewer than two."""
    from scipy import stats

    half = float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n) if n >= 2 else math.inf
    return mean - half, mean + half


def two_means(a: Moments, b: Moments) -> float:
    """Two-sided p-value for equal means by Welch's t-test; 1 for fewer than two independent examples."""
    from scipy import stats

    if min(a[2], b[2]) < 2:
        return 1.0
    if not a[1] and not b[1]:
        return float(a[0] == b[0])
    return float(stats.ttest_ind_from_stats(*a, *b, equal_var=False).pvalue)


def welch(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p-value for equal means by Welch's t-test; needs at least two values of each."""
    from scipy import stats

    means, deviations = [statistics.fmean(v) for v in (a, b)], [statistics.stdev(v) for v in (a, b)]
    if not any(deviations):
        return float(means[0] == means[1])
    moments = (means[0], deviations[0], len(a), means[1], deviations[1], len(b))
    return float(stats.ttest_ind_from_stats(*moments, equal_var=False).pvalue)


def two_proportions(correct_a: int, n_a: int, correct_b: int, n_b: int) -> float:
    """Two-sided p-value for equal proportions, by the pooled normal approximation."""
    pooled = (correct_a + correct_b) / (n_a + n_b)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    gap = abs(correct_a / n_a - correct_b / n_b)
    return math.erfc(gap / error / math.sqrt(2)) if error > 0 else 1.0
