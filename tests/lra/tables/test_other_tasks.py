"""Tables of the S4 paper's other tasks: published rows as printed, our runs below, nothing mixed into LRA's tables."""

import csv
import io
import re

import pytest

from helpers.made_up_runs import BASE, PUBLISHED, ran, row_of
from helpers.records import replace
from lra.objectives.objective import objective_of
from lra.records.audit import audit_other_csv
from lra.records.record import Data
from lra.tables.aggregate import OTHER_TASKS, aggregate, is_of_lra
from lra.tables.build import table_files
from lra.tables.other_tasks import OTHER_TABLES, other_table

REGRESSION = objective_of("regression")


def forecast(model: str, task: str, error: float, *, seed: int = 0, trivial: float = 0.2, **changes: object):
    """A run of scale paper with this mean squared error, over windows that hardly differ."""
    totals = {
        "squared": 1000 * error,
        "absolute": 700 * error,
        "squares": 1001 * error**2,
        "independent": 40,
        "examples": 1000,
    }
    assert tuple(totals) == REGRESSION.totals
    data = Data(kind="official", fingerprint=task, counts={"test": 1000}, trivial=trivial)
    about = {"model": model, "title": model, "task": task, "seed": seed, "scale": "paper", "data": data}
    score = {"objective": "regression", "val_score": error, "test_score": error, "test_totals": totals}
    return replace(BASE, **{**about, **score, "examples": [], **changes})


RUNS = [
    forecast("s4", "etth1-uni-24", 0.06),
    forecast("s4", "etth1-uni-24", 0.08, seed=1),
    forecast("dlinear", "etth1-uni-24", 0.03),
    forecast("s4", "etth1-uni-720", 0.3),
    forecast("s4", "etth2-multi-24", 0.15),
]


def test_forecasts_stand_beside_the_published_ones():
    row = row_of(other_table("s4_table13", RUNS, PUBLISHED), "ETTh1, 24")
    assert row["S4 (paper)"] == "0.061 / 0.191"
    assert row["Informer (paper)"] == "0.098 / —"
    assert row["S4 here"] == "0.070 ± 0.014 / 0.049 ± 0.010 (2)"
    assert row["DLinear here"] == "0.030 / 0.021 (1)"
    assert row["Trivial"] == "0.200"
    multi = row_of(other_table("s4_table14", RUNS, PUBLISHED), "ETTh2, 24")
    assert (multi["S4 (paper)"], multi["S4 here"]) == ("0.871 / 0.736", "0.150 / 0.105 (1)")


def test_best_forecast_is_the_smallest_error():
    table = other_table("s4_table13", RUNS, PUBLISHED)
    bold = {name for name, entry in zip(table.header, table.rows[0], strict=True) if entry.bold}
    assert bold == {"DLinear here"}


def test_run_that_does_not_beat_the_trivial_answer_is_marked():
    table = other_table("s4_table9", RUNS, PUBLISHED)
    assert row_of(table, "ETTh1, 720")["S4 here"] == "0.300 / 0.210° (1)"
    assert any(note.startswith("°: ") for note in table.notes)


def test_pixel_images_have_a_row_for_each_model():
    runs = [
        ran("s4", "smnist", 990),
        ran("gru", "smnist", 980),
        ran("s4", "smnist", 700, variant=["training.epochs=1"]),
    ]
    table = other_table("s4_table6", runs, PUBLISHED)
    assert row_of(table, "S4 (paper)") == {
        "Model": "S4 (paper)",
        "sMNIST": "99.63",
        "pMNIST": "98.70",
        "sCIFAR": "91.13",
    }
    assert row_of(table, "↳ here: S4")["sMNIST"] == "99.00 (1)"
    assert row_of(table, "↳ here: S4 with training.epochs=1")["sMNIST"] == "70.00 (1)"
    assert row_of(table, "GRU here")["pMNIST"] == "—"


@pytest.mark.parametrize("name", OTHER_TABLES)
def test_empty_table_says_how_to_fill_it(name):
    table = other_table(name, [], PUBLISHED)
    assert "Nothing measured here yet: make beyond" in table.notes[0]


def test_other_tasks_are_not_in_the_tables_of_lra():
    runs = [*RUNS, ran("s4", "smnist", 990), ran("s4", "listops", 600), ran("s4", "mine", 600)]
    assert {r.task for r in runs if is_of_lra(r)} == {"listops", "mine"}
    tasks = {task for row in aggregate(runs, PUBLISHED, "paper").rows for task in row.cells}
    assert tasks == {"listops", "mine"}
    pixels = {s.task for t in OTHER_TABLES.values() if t.objective == "classification" for s in t.settings}
    assert {task.partition("-")[0] for task in pixels} <= set(OTHER_TASKS)


def test_audit_recomputes_every_measured_line():
    text = table_files(RUNS, PUBLISHED, [])["s4_table13.csv"]
    assert list(audit_other_csv(text, RUNS, "t.csv")) == []
    for wrong in (text.replace("0.070000", "0.070100"), text.replace(",2,2,0.07", ",3,2,0.07")):
        assert wrong != text
        (problem,) = audit_other_csv(wrong, RUNS, "t.csv")
        assert problem.startswith("t.csv: s4 on etth1-uni-24, mse: ")


def test_own_regression_task_has_a_table():
    runs = [forecast("s4", "level", 0.1, scale="mini"), forecast("gru", "level", 0.15, scale="mini"), *RUNS]
    files = table_files(runs, PUBLISHED, [])
    assert "Regression, scale mini: test MSE / MAE" in files["mini_regression.md"]
    assert "| S4 here | **0.100 / 0.070 (1)** |" in re.sub(" +", " ", files["mini_regression.md"])
    assert "paper_regression.md" not in files


def test_csv_has_every_number():
    lines = list(csv.DictReader(io.StringIO(table_files(RUNS, PUBLISHED, [])["s4_table13.csv"])))
    measured = [line for line in lines if line["model"] == "s4" and line["task"] == "etth1-uni-24"]
    assert [(line["metric"], line["mean"], line["runs"]) for line in measured] == [
        ("mse", "0.070000", "2"),
        ("mae", "0.049000", "2"),
    ]
    printed = [line for line in lines if line["row"] == "S4" and line["task"] == "etth1-uni-24"]
    assert [line["published"] for line in printed] == ["0.061", "0.191"]


@pytest.mark.parametrize(
    ("objective", "task", "table", "score"),
    [("language", "wikitext103", "s4_table8", "2.013753"), ("density", "cifar_density", "s4_table7", "1.009887")],
)
def test_next_tokens_have_tables_that_the_audit_recomputes(objective, task, table, score):
    totals = {"nats": 70.0, "tokens": 100, "means": 7.0, "squares": 5.0, "examples": 10}
    value = objective_of(objective).score(totals)
    data = Data(kind="official", fingerprint=task, counts={"test": 10}, trivial=2 * value)
    run = ran("transformer", task, None, objective=objective, data=data, test_totals=totals, test_score=value)
    text = table_files([run], PUBLISHED, [])[f"{table}.csv"]
    assert score in text
    assert list(audit_other_csv(text, [run], "t.csv")) == []
    (problem,) = audit_other_csv(text.replace(score, "3.000000"), [run], "t.csv")
    assert problem.startswith(f"t.csv: transformer on {task}, ")
    (unknown,) = audit_other_csv(text.replace(f"{objective_of(objective).metric.name},", "other,"), [run], "t.csv")
    assert "cannot recompute this metric" in unknown
