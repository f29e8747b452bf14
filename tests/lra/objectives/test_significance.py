"""Significance tests, against their definitions."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from lra.objectives import significance


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 3000), chance=st.floats(0.01, 0.99))
def test_binomial_test_is_exact(n, chance):
    """At the largest number of right answers that chance explains, the next, and the ends."""
    last = int(stats.binom.isf(significance.CHANCE_LEVEL, n, chance))
    for correct in {0, last, min(last + 1, n), n}:
        p = special.bdtrc(correct - 1, n, chance)
        if abs(p - significance.CHANCE_LEVEL) > 1e-9:
            assert significance.beats_chance(correct, n, chance) == (p < significance.CHANCE_LEVEL)


def test_nothing_beats_a_test_set_of_one_label():
    assert not significance.beats_chance(100, 100, 1.0)


SEEDS = st.lists(st.floats(0.1, 0.9), min_size=2, max_size=5)


@settings(max_examples=100, deadline=None)
@given(a=SEEDS, b=SEEDS)
def test_welch_equals_scipy_on_the_seeds(a, b):
    if min(significance.deviation(a), significance.deviation(b)) > 1e-3:
        assert significance.welch(a, b) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue, abs=1e-9)


def test_welch_of_identical_seeds():
    assert significance.welch([0.5, 0.5], [0.5, 0.5]) == 1.0
    assert significance.welch([0.5, 0.5], [0.6, 0.6]) == 0.0
    # t = 3 with one degree of freedom
    assert significance.welch([0.5, 0.5], [0.6, 0.7]) == pytest.approx(2 * stats.t.sf(3, 1))


@pytest.mark.parametrize(("a", "b"), [((600, 1000), (560, 1000)), ((80, 200), (82, 200)), ((0, 10), (0, 20))])
def test_two_proportions_equal_chi_square(a, b):
    rows = [[a[0], a[1] - a[0]], [b[0], b[1] - b[0]]]
    expected = stats.chi2_contingency(rows, correction=False).pvalue if a[0] + b[0] else 1.0
    assert significance.two_proportions(*a, *b) == pytest.approx(expected)


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (1, 10), (10, 10), (41, 100), (820, 2000)])
def test_interval_of_one_seed_is_clopper_pearson(correct, n):
    low = special.betaincinv(correct, n - correct + 1, 0.025) if correct else 0.0
    high = special.betaincinv(correct + 1, n - correct, 0.975) if correct < n else 1.0
    assert significance.clopper_pearson(correct, n) == pytest.approx((low, high))


@pytest.mark.parametrize("values", [[0.5, 0.52, 0.57], [0.5, 0.52], [0.5, 0.5]])
def test_interval_over_seeds_is_students(values):
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    centre = math.fsum(values) / len(values)
    assert significance.interval(values) == pytest.approx((centre - half, centre + half))
