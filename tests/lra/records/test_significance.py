"""What is told from luck, against scipy."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lra.records import significance


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 3000), chance=st.floats(0.01, 0.99))
def test_binomial_test_is_exact(n, chance):
    """At the last number of right answers that may be luck, the next, and the ends."""
    last = int(stats.binom.isf(0.001, n, chance))
    for correct in {0, last, min(last + 1, n), n}:
        p = stats.binomtest(correct, n, chance, alternative="greater").pvalue
        if abs(p - 0.001) > 1e-9:
            assert significance.beats_chance(correct, n, chance) == (p < 0.001)


def test_nothing_beats_a_test_set_of_one_label():
    assert not significance.beats_chance(100, 100, 1.0)


@settings(max_examples=100, deadline=None)
@given(a=st.lists(st.floats(0.1, 0.9), min_size=2, max_size=5), b=st.lists(st.floats(0.1, 0.9), min_size=2, max_size=5))
def test_welch_agrees_with_scipy(a, b):
    if min(significance.deviation(a), significance.deviation(b)) > 1e-3:
        assert significance.welch(a, b) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue, abs=1e-9)


def test_equal_seeds_differ_only_if_their_means_do():
    assert significance.welch([0.5, 0.5], [0.5, 0.5]) == 1.0
    assert significance.welch([0.5, 0.5], [0.6, 0.6]) == 0.0


@pytest.mark.parametrize(("a", "b"), [((600, 1000), (560, 1000)), ((80, 200), (82, 200)), ((0, 10), (0, 20))])
def test_two_proportions_agree_with_the_chi_square_test(a, b):
    rows = [[a[0], a[1] - a[0]], [b[0], b[1] - b[0]]]
    expected = stats.chi2_contingency(rows, correction=False).pvalue if a[0] + b[0] else 1.0
    assert significance.two_proportions(*a, *b) == pytest.approx(expected)


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (1, 10), (10, 10), (41, 100), (820, 2000)])
def test_the_interval_of_one_seed_is_clopper_pearson(correct, n):
    expected = stats.binomtest(correct, n).proportion_ci(0.95, "exact")
    assert significance.interval([correct / n], correct, n) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("values", [[0.5, 0.52, 0.57], [0.5, 0.52], [0.5, 0.5]])
def test_the_interval_over_seeds_is_students(values):
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    centre = math.fsum(values) / len(values)
    assert significance.interval(values, 0, 0) == pytest.approx((centre - half, centre + half))
