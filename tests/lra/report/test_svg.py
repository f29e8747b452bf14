"""SVG charts: labels have room and never overlap, ticks are few."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lra.report import svg
from lra.report.svg import Axis, Bubble, Line, bubble_chart, line_chart, log_ticks, nice_ticks, overlap, spread


def test_long_label_leaves_room():
    line = Line([(0.0, 1.0), (10.0, 2.0)], "c0", "", "S4 [" + "x" * 200 + "]")
    text = line_chart([line], "steps", "d", y_text=str)
    points = re.search(r'points="([\d.]+),\S+ ([\d.]+),', text)
    assert float(points[2]) - float(points[1]) > svg.WIDTH / 3
    assert "S4 [xxx" in text


BUBBLES = st.lists(
    st.builds(
        Bubble,
        x=st.floats(1, 1000),
        y=st.floats(0, 1),
        area=st.floats(0, 1),
        colour=st.sampled_from(["c0", "c1", "other"]),
        label=st.sampled_from(["S4", "Transformer", "Linear Transformer"]),
        title=st.just(""),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=100, deadline=None)
@given(BUBBLES)
def test_bubble_labels_never_overlap(bubbles):
    text = bubble_chart(bubbles, "x", "d", y_text=str)
    found = re.findall(r'<text class="label \w+" x="([\d.]+)" y="([\d.]+)">([^<]+)', text)
    boxes = [(float(x), float(y) - 10, float(x) + svg.text_width(name), float(y) + 2) for x, y, name in found]
    inner = [(a + 2.1, b + 0.6, c - 2.1, d - 0.6) for a, b, c, d in boxes]
    assert not any(overlap(a, b) for a, b in itertools.combinations(inner, 2))
    assert all(a >= 0 and c <= svg.WIDTH + svg.RIGHT for a, _, c, _ in boxes)


@given(st.lists(st.floats(0, 100), max_size=20), st.floats(0.1, 15))
def test_spread_keeps_order_and_gap(wanted, gap):
    placed = spread(wanted, gap, 0, 100)
    assert all(-1e-6 <= p <= 100 + 1e-6 for p in placed)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    fair = min(gap, 100 / max(1, len(wanted) - 1))
    assert all(placed[b] - placed[a] >= fair - 1e-6 for a, b in itertools.pairwise(order))


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low, width):
    ticks = nice_ticks(low, low + width)
    assert 1 <= len(ticks) <= 12
    assert all(low - 1e-6 * width <= t <= low + 1.000001 * width for t in ticks)


@given(st.floats(1e-3, 1e6), st.floats(1.3, 1e6))
def test_log_ticks_are_few_and_inside(low, factor):
    ticks = log_ticks(low, low * factor)
    assert 2 <= len(ticks) <= 6
    assert all(low <= t <= low * factor for t in ticks)


def test_short_log_axis_has_round_ticks():
    assert log_ticks(0.79, 1.97) == [1.0, 1.5]


def test_axis_maps_ends_and_middle():
    assert [Axis("", 1, 100, 0, 10, log=True)(v) for v in (1, 10, 100)] == pytest.approx([0, 5, 10])
    assert [Axis("", 0, 4, 10, 0)(v) for v in (0, 1, 4)] == pytest.approx([10, 7.5, 0])
