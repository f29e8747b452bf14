"""Agreement of a scale with the published ranking."""

import csv
import io

import numpy as np
import pytest
from scipy.stats import spearmanr

from helpers.made_up_runs import PUBLISHED, grid, ran
from lra.records.published import TASKS
from lra.tables.agreement import AVERAGE, agreement_table, agreements, seed_swaps, spearman
from lra.tables.csv_export import agreement_csv

MODELS = ["transformer", "linformer", "performer", "s4", "s4d", "s5"]


def published(model: str, shift: int = 0) -> list:
    """Runs with the published scores, of 1000 test examples."""
    row = PUBLISHED.row_of(model)
    return grid(model, *(round(10 * (row.scores[t] or 50.2)) + shift for t in TASKS))


def find(records, task, group="all"):
    return next(a for a in agreements(records, PUBLISHED, "paper") if (a.task, a.group) == (task, group))


def test_spearman_is_that_of_scipy_with_ties():
    x, y = np.array([1.0, 2, 2, 5, 3]), np.array([2.0, 1, 4, 4, 3])
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert np.isnan(spearman(np.ones(4), np.arange(4)))


def test_published_scores_agree_with_themselves():
    found = find([r for m in MODELS for r in published(m)], AVERAGE)
    assert len(found.pairs) == 6
    assert found.spearman == pytest.approx(1)
    low, high = found.interval
    assert 0.9 < low <= high <= 1 + 1e-9


def test_reversed_order_is_minus_one_and_too_few_models_say_nothing():
    scores = sorted(MODELS, key=lambda m: PUBLISHED.row_of(m).scores["image"])
    records = [ran(m, "image", 900 - 50 * i) for i, m in enumerate(scores)]
    assert find(records, "image").spearman == pytest.approx(-1)
    assert find(records[:3], "image").spearman is None
    assert find(records, "image", "attention").spearman is None


def test_what_learned_where_is_counted():
    records = [
        *published("s4"),
        ran("s4d", "pathx", 500),
        ran("transformer", "pathx", 700),
        ran("linformer", "pathx", 500),
    ]
    found = find(records, "pathx")
    counts = [found.count(here=here, there=there) for here, there in ((1, 1), (0, 1), (1, 0), (0, 0))]
    assert counts == [1, 1, 1, 1]


def test_models_that_change_places_between_seeds_are_counted():
    records = [ran("s4", "image", n, seed=s) for s, n in enumerate((800, 700))]
    records += [ran("s5", "image", n, seed=s) for s, n in enumerate((750, 760))]
    swaps = {s.task: (s.swapped, s.compared) for s in seed_swaps(records, PUBLISHED, "paper")}
    assert (swaps["image"], swaps["text"]) == ((1, 1), (0, 0))


def test_table_and_csv_have_the_same_numbers():
    records = [r for m in MODELS for r in published(m)]
    table = agreement_table(records, PUBLISHED, ["paper", "mini"])
    assert str(table.rows[0][-1]).startswith("1.00 [")
    lines = list(csv.DictReader(io.StringIO(agreement_csv(records, PUBLISHED, ["paper", "mini"]))))
    assert [line["spearman"] for line in lines if (line["group"], line["task"]) == ("all", AVERAGE)] == ["1.0000"]
