"""Forecasting: windows, splits, scaling and dates against slow definitions; files with mistakes."""

import csv
import lzma
from datetime import datetime, timedelta

import numpy as np
import pytest
import torch

from data.forecasting import CALENDAR, SERIES, Forecasting, borders
from data.prepared import DataError
from helpers.compose import compose
from helpers.official_folders import ready
from lra.config.compose import cell_of, composed
from lra.config.overrides import task_words
from models.dlinear import DLinear, NLinear

MONTH = 30 * 24


def forecasting(tmp_path, **arguments) -> Forecasting:
    defaults = {"series": "etth1", "batch_size": 4, "root": tmp_path, "source": "toy", "context": 48, "horizon": 24}
    return ready(Forecasting(**{**defaults, **arguments}))


@pytest.mark.parametrize("arguments", [{}, {"features": "multi"}, {"series": "ettm1"}, {"dates_known": True}])
def test_windows_equal_their_definition(tmp_path, arguments):
    task = forecasting(tmp_path, **arguments)
    raw, dates = (task.opened.arrays[name] for name in ("x", "dates"))
    per_month = MONTH * 60 // task.series.minutes
    columns = slice(None) if task.features == "multi" else slice(-1, None)
    train = raw[: 12 * per_month, columns]
    scaled = (raw[:, columns] - train.mean(0)) / train.std(0)
    for split, first in (("train", 0), ("val", 12 * per_month - 48), ("test", 16 * per_month - 48)):
        rows = task.opened.index[split]
        last = first + (12 if split == "train" else 4) * per_month + (0 if split == "train" else 48) - 72
        assert (rows[0], rows[-1], len(rows)) == (first, last, last - first + 1)
        batch = task.opened.examples.gather(torch.from_numpy(rows[[0, 5, -1]]), 72)
        for x, y, row in zip(batch.x, batch.y, rows[[0, 5, -1]], strict=True):
            n = scaled.shape[1]
            np.testing.assert_allclose(x[:48, :n], scaled[row : row + 48], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(y, scaled[row + 48 : row + 72], rtol=1e-5, atol=1e-6)
            assert not x[48:, :n].any()
            known = 72 if task.dates_known else 48
            np.testing.assert_array_equal(x[:known, n:], dates[row : row + known, : len(task.spec.categories)])
            assert not x[known:, n:].any()
    assert batch.mask.all()


def test_dates_are_calendar_features(tmp_path):
    task = forecasting(tmp_path, series="ettm1")
    start = datetime(2016, 7, 1)
    for row in (0, 1, 95, 96, 2880, 40000):
        d = start + timedelta(minutes=15 * row)
        assert task.opened.arrays["dates"][row].tolist() == [d.month, d.day, d.weekday(), d.hour, d.minute // 15]
    assert (task.opened.arrays["dates"].max(0) < CALENDAR).all()


def test_trivial_score_is_the_better_of_two_constants(tmp_path):
    task = forecasting(tmp_path, features="multi")
    x = task.opened.examples.x.double().numpy()
    last, mean = [], []
    for row in task.opened.index["test"]:
        target = x[row + 48 : row + 72]
        last.append(np.square(target - x[row + 47]).mean())
        mean.append(np.square(target).mean())
    assert task.trivial_score("test") == pytest.approx(min(np.mean(last), np.mean(mean)), rel=1e-6)


def test_splits_of_other_series_are_shares():
    assert borders(1000, SERIES["weather"]) == [(0, 700), (700, 800), (800, 1000)]
    assert borders(20 * MONTH, SERIES["etth2"]) == [(0, 12 * MONTH), (12 * MONTH, 16 * MONTH), (16 * MONTH, 20 * MONTH)]


def rows_of(n: int, minutes: int = 60) -> list[list[str]]:
    start, step = datetime(2016, 7, 1), timedelta(minutes=minutes)
    return [[str(start + i * step), *(f"{(7 * i + j) % 11 + 0.5}" for j in range(7))] for i in range(n)]


def write_csv(path, rows, columns=("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")):
    path.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(path, "wt") if path.suffix == ".xz" else path.open("w") as file:
        csv.writer(file).writerows([["date", *columns], *rows])


@pytest.mark.parametrize("name", ["ETTh1.csv", "ett/ETTh1.csv.xz"])
def test_official_files_are_read(tmp_path, name):
    rows = rows_of(20 * MONTH + 7)
    write_csv(tmp_path / "raw" / name, rows)
    task = forecasting(tmp_path / "root", source=str(tmp_path / "raw"), features="multi")
    assert task.kind == "official"
    np.testing.assert_array_equal(task.opened.arrays["x"], [[float(v) for v in row[1:]] for row in rows])


MISTAKES = {
    "columns are date, A, OT; expected date, HUFL": lambda rows: (rows, ("A", "OT")),
    "line 5: 2016-07-01 04:00:00 follows 2016-07-01 02:00:00, expected 60 minutes": lambda rows: (
        rows[:3] + rows[4:],
        None,
    ),
    "line 4: could not convert string to float": lambda rows: ([*rows[:2], [rows[2][0], *["x"] * 7], *rows[3:]], None),
    "line 4: 7 finite values are expected": lambda rows: ([*rows[:2], [rows[2][0], *["nan"] * 7], *rows[3:]], None),
    "line 3: Invalid isoformat": lambda rows: ([rows[0], ["yesterday", *["1"] * 7]], None),
    "no rows": lambda rows: ([], None),
    "20 rows, the splits need 14400": lambda rows: (rows[:20], None),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_in_a_file_is_one_line(tmp_path, message):
    rows, columns = MISTAKES[message](rows_of(40))
    write_csv(tmp_path / "ETTh1.csv", rows, *([columns] if columns else []))
    with pytest.raises(DataError, match=message) as error:
        forecasting(tmp_path / "root", source=str(tmp_path))
    assert "hint: " in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 3000}, "horizon=3000 is longer than the 2880 rows of val"),
        ({"context": 9000}, "longer than the 8640 training rows"),
        ({"horizon": 0}, "horizon=0: a whole number"),
        ({"series": "etth3"}, "series='etth3'"),
        ({"series": "weather", "source": "official"}, "WTH.csv has no address for programs; hint: "),
    ],
)
def test_impossible_arguments_are_one_line(tmp_path, arguments, message):
    with pytest.raises(DataError, match=message):
        forecasting(tmp_path, **arguments)


def test_horizon_is_part_of_the_name_and_no_variant():
    run = cell_of(**composed(["task=etth2", "model=s4", "task.horizon=48", "task.features=multi"]))
    assert (run.task, run.variant) == ("etth2-multi-48", [])
    assert "task.horizon=48" in run.command
    assert task_words("etth2-multi-48") == ["task=etth2", "task.features=multi", "task.horizon=48"]
    assert task_words("listops") == ["task=listops"]
    with pytest.raises(ValueError, match="task etth9-uni-24: no such task"):
        task_words("etth9-uni-24")
    other = cell_of(**composed(["task=etth2", "model=s4", "task.context=100"]))
    assert (other.task, other.variant) == ("etth2-uni-24", ["task.context=100"])


@pytest.mark.parametrize("features", ["uni", "multi"])
def test_models_read_the_context_alone(features):
    cfg = compose("task=etth1", "model=dlinear", f"task.features={features}", "task.context=30")
    spec = Forecasting(series="etth1", features=features, context=30, batch_size=1).spec
    assert cfg.task.horizon == spec.horizon
    x, mask = spec.random_input(3), torch.ones(3, spec.max_len, dtype=torch.bool)
    other = x.clone()
    other[:, 30:] += 1
    for model in (DLinear(spec, kernel_size=5), NLinear(spec)):
        y = model(x, mask)
        assert y.shape == (3, 24, spec.n_outputs)
        assert torch.equal(y, model(other, mask))
        assert model(x + 2, mask).shape == y.shape
    # NLinear is equivariant to a shift of the level
    torch.testing.assert_close(model(x + 2, mask), y + 2)


def test_dlinear_equals_its_definition():
    spec = Forecasting(series="etth1", context=12, batch_size=1).spec
    model = DLinear(spec, kernel_size=5).double()
    x = spec.random_input(2).double()
    line = x[0, :12, 0]
    padded = torch.cat([line[:1].repeat(2), line, line[-1:].repeat(2)])
    trend = torch.stack([padded[i : i + 5].mean() for i in range(12)])
    expected = model.trend(trend) + model.linear(line - trend)
    torch.testing.assert_close(model(x, torch.ones(2, 36, dtype=torch.bool))[0, :, 0], expected)


def test_forecaster_refuses_other_tasks():
    from data.listops import ListOps

    with pytest.raises(ValueError, match="task=listops: DLinear only forecasts; hint: task=etth1"):
        DLinear(ListOps(batch_size=1).spec)
    with pytest.raises(ValueError, match="kernel_size=4: an odd number"):
        DLinear(Forecasting(series="etth1", batch_size=1).spec, kernel_size=4)
