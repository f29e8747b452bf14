"""Charts: their data are the records', static pictures need no script, specifications are valid Vega-Lite."""

import json
import re

import pytest

from helpers import made_up_runs
from helpers.made_up_runs import PUBLISHED, grid
from helpers.report_runs import forecast
from lra.paths import ROOT
from lra.records.benchmark import load_bench
from lra.records.record import Kernel, Point
from lra.report import charts
from lra.report.page import other_tasks
from lra.tables.aggregate import Aggregate, aggregate
from lra.tables.agreement import AVERAGE, agreements
from lra.tables.efficiency import efficiency

SCORES = {"s4": 900, "lstm": 510, "transformer": 700}
BENCHES = {bench.table: bench for bench in load_bench(ROOT / "results" / "bench")}


def text_runs(**changes: object) -> Aggregate:
    """Runs on Text; LSTM stays at chance, one half."""
    runs = [made_up_runs.ran(model, "text", right, **changes) for model, right in SCORES.items()]
    return aggregate([*runs, made_up_runs.ran("s4", "text", 920, seed=1, **changes)], PUBLISHED, "paper")


def rows_of(figure: charts.Figure) -> list[dict]:
    """The data of a chart, the largest set of it."""
    return max(json.loads(figure.spec)["datasets"].values(), key=lambda rows: len(json.dumps(rows)))


def column(results: Aggregate, task: str) -> charts.Column:
    return next(c for c in results.columns if c.task == task)


def names_in(figure: charts.Figure) -> list[str]:
    return re.findall("<text[^>]*>([^<]*[A-Za-z][^<]*)</text>", figure.picture)


def test_ranking_shows_means_and_ranges_best_first():
    results = text_runs()
    figure = charts.ranking(results.main_rows, column(results, "text"))
    rows = rows_of(figure)
    assert [(r["label"], r["value"], r["low"], r["high"], r["learned"]) for r in rows] == [
        ("S4", 91.0, 90.0, 92.0, True),
        ("Transformer", 70.0, 70.0, 70.0, True),
        ("LSTM", 51.0, 51.0, 51.0, False),
    ]
    assert [r["trivial"] for r in rows] == [50.0] * 3
    assert names_in(figure) == ["S4", "Transformer", "LSTM"]


def test_lower_is_better_where_the_objective_says_so():
    runs = [forecast("s4", 0.4), forecast("lstm", 0.2), forecast("gru", 1.5)]
    rows, columns = other_tasks(runs, PUBLISHED, "paper")
    figure = charts.ranking(rows, columns[0])
    # GRU is worse than the trivial forecast
    expected = [("LSTM", 0.2, True), ("S4", 0.4, True), ("GRU", 1.5, False)]
    assert [(r["label"], r["value"], r["learned"]) for r in rows_of(figure)] == expected
    assert "MSE" in figure.note
    strengths = {row.model: charts.strength(row) for row in rows}
    assert strengths["lstm"] > strengths["s4"] > 0


def test_strength_is_zero_at_chance_and_one_for_perfection():
    results = aggregate(
        [made_up_runs.ran("s4", "text", 1000), made_up_runs.ran("lstm", "text", 500)], PUBLISHED, "paper"
    )
    assert {row.model: charts.strength(row) for row in results.main_rows} == {"s4": 1.0, "lstm": 0.0}


def test_overview_has_a_panel_for_each_task():
    results = aggregate([*grid("s4", 590, 860), *grid("lstm", 300, 700)], PUBLISHED, "paper")
    figure = charts.overview(results.main_rows, results.measured_columns, legend=True)
    assert {(r["model"], r["task"], r["value"]) for r in rows_of(figure)} == {
        ("s4", "ListOps", 59.0), ("s4", "Text", 86.0), ("lstm", "ListOps", 30.0), ("lstm", "Text", 70.0),
    }  # fmt: skip
    assert names_in(figure)[-2:] == ["state space", "recurrent"]
    assert {"ListOps", "Text", "S4", "LSTM"} <= set(names_in(figure))


def test_curves_are_thinned_and_seeds_averaged():
    curve = [Point(step=s, train_loss=1 / s, val_score=s / 1000) for s in range(1, 301)]
    results = text_runs(curve=curve)
    groups = [(row, row.cells["text"].seeds) for row in results.main_rows]
    accuracy, loss = charts.task_curves(groups)
    lines = {line["line"]: line for line in rows_of(accuracy)}
    assert set(lines) == {"S4, seed 0", "S4, seed 1", "S4, mean of 2 seeds", "LSTM, seed 0", "Transformer, seed 0"}
    assert {name for name, line in lines.items() if line["thin"]} == {"S4, seed 0", "S4, seed 1"}
    xs, ys = lines["LSTM, seed 0"]["x"], lines["LSTM, seed 0"]["y"]
    assert 30 <= len(xs) <= charts.CURVE_POINTS + 1
    assert (xs[0], xs[-1], ys[-1]) == (1, 300, 30.0)
    assert [line["y"][0] for line in rows_of(loss)] == [1.0] * 5


def test_mean_of_curves_is_over_shared_steps():
    curves = [[(1.0, 2.0), (2.0, 4.0)], [(2.0, 8.0), (3.0, 1.0)]]
    assert charts.mean_curve(curves) == [(2.0, 6.0)]
    assert charts.mean_curve(curves[:1]) is None


def test_ranks_of_agreement_are_by_value():
    records = [
        *grid("s4", *[900] * 6),
        *grid("transformer", *[950] * 6),
        *grid("luna", *[700] * 6),
        *grid("fnet", *[600] * 6),
    ]
    found = next(a for a in agreements(records, PUBLISHED, "paper") if (a.group, a.task) == ("all", AVERAGE))
    figure = charts.agreement_figure(aggregate(records, PUBLISHED, "paper").main_rows, found)
    ranks = {(r["side"], r["rank"]): r["model"] for r in rows_of(figure)}
    assert [ranks["here", i] for i in range(1, 5)] == ["transformer", "s4", "luna", "fnet"]
    assert [ranks["published", i] for i in range(1, 5)] == ["s4", "luna", "fnet", "transformer"]
    assert len(names_in(figure)) == 2 + 2 * 4


@pytest.mark.parametrize(
    ("name", "table", "compared"), [("lra_table2", "LRA Table 2", False), ("s4_table3", "S4 Table 3", True)]
)
def test_published_speed_is_drawn_only_as_a_ratio(name, table, compared):
    results = efficiency(name, [BENCHES[table]], PUBLISHED)
    figures = list(charts.bench_figures(results, PUBLISHED))
    assert len(figures) == 2
    for figure in figures:
        lines = rows_of(figure)
        assert any(line["line"] == "S4" and line["family"] == "state space" for line in lines)
        assert any(line["dashed"] for line in lines) == compared
        assert all(value > 0 for line in lines for value in line["y"])


def test_names_at_the_ends_of_lines_have_room():
    ends = {"lstm": 1.0, "gru": 1.01, "s4": 1.02, "luna": 100.0}
    same = {"family": "other", "dashed": False, "x": [1, 2]}
    lines = [{"model": model, "label": model, "y": [1.0, end], **same} for model, end in ends.items()]
    assert [label["label"] for label in charts.end_labels(lines, 260)] == ["s4", "luna"]
    assert charts.end_labels([{**lines[0], "dashed": True}], 260) == []


def test_kernels_are_drawn_before_and_after():
    line = [0.5, -1.0, 0.25, 0.0]
    values = {"before": [line, line], "after": [line, [1.0, 1.0, 1.0, 1.0]]}
    kernels = [Kernel(layer=i, feature=5, length=100, starts=[0, 1, 2, 9], **values) for i in range(2)]
    figure = charts.kernel_figure(text_runs().main_rows[0], kernels)
    rows = rows_of(figure)
    assert [(r["name"], r["when"]) for r in rows[:2]] == [("layer 1, feature 5", w) for w in ("before", "after")]
    assert [r["low"] for r in rows[2::2]] == [pytest.approx([0.775, 1.45, 0.8875, 1.0], abs=6e-4)]
    assert names_in(figure)[-2:] == ["layer 1, feature 5", "layer 2, feature 5"]


def test_static_pictures_stand_alone_in_both_themes():
    results = text_runs()
    picture = charts.overview(results.main_rows, results.measured_columns, legend=True).picture
    light, dark = charts.themed(picture, "light"), charts.themed(picture, "dark")
    assert light.startswith("<svg xmlns=")
    assert "var(" not in light + dark
    assert ("#0072b2" in light, "#56b4e9" in dark, "#0072b2" in dark) == (True, True, False)
    # more than one chart in a page: no id twice
    assert " id=" not in picture


def test_pictures_have_one_decimal_but_labels_all_of_theirs():
    results = efficiency("lra_table2", [BENCHES["LRA Table 2"]], PUBLISHED)
    memory = list(charts.bench_figures(results, PUBLISHED))[1]
    assert not re.search(r'="[^"]*\d\.\d\d', re.sub(r'opacity="[^"]*"', "", memory.picture))
    figure = charts.scaling_figure("t", "n", "length", [{**rows_of(memory)[0], "x": [1, 10], "y": [0.02, 0.05]}])
    assert {"0.02", "0.05"} <= set(re.findall(">([^<]+)</text>", figure.picture))


def test_every_family_has_a_colour():
    assert {info.family for info in PUBLISHED.models.values()} <= set(charts.FAMILIES)
    assert all(f"--f{i}: #" in charts.STYLE.read_text() for i in range(len(charts.FAMILIES)))


def test_json_cannot_end_a_script():
    assert charts.as_json({"a": "</script><!--"}) == '{"a":"\\u003c/script>\\u003c!--"}'
    assert "</script" not in charts.bundle()
