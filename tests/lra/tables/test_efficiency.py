"""Tables of speed and memory: measured values next to published ones."""

import csv
import io
import json

import pytest

from helpers.made_up_runs import PUBLISHED, row_of
from lra.records.benchmark import load_bench
from lra.records.published import Quantity
from lra.tables.csv_export import efficiency_csv
from lra.tables.efficiency import EFFICIENCY_TABLES, Measured, efficiency_table, entry


def bench(**changes: object) -> dict:
    hardware = {"device": "gpu", "processor": "cpu", "cores": 1, "threads": 1, "memory_mib": 1, "system": "Linux"}
    content = {
        "table": "S4 Table 3",
        "command": "python scripts/bench.py layer",
        "started": "2026-01-31T12:00:00Z",
        "git": {"commit": None, "dirty": None},
        "hardware": hardware,
        "versions": {},
        "rows": [{"row": "S4", "column": "speed, length 4096", "value": 6.123, "unit": "x"}],
    }
    return content | changes


def test_benchmarks_fill_the_tables(tmp_path):
    (tmp_path / "layer.json").write_text(json.dumps(bench()))
    (tmp_path / "other.json").write_text('{"something": "else"}')
    benches = load_bench(tmp_path)
    table = efficiency_table("s4_table3", benches, PUBLISHED)
    assert row_of(table, "S4 (paper)")["speed, length 4096 [x]"] == "5.19"
    assert row_of(table, "↳ here: S4")["speed, length 4096 [x]"] == "6.12"
    assert any("here: gpu" in note for note in table.notes)
    (tmp_path / "layer.json").unlink()
    benches[0].write(tmp_path / "layer.json")
    assert load_bench(tmp_path) == benches
    (tmp_path / "layer.json").write_text(json.dumps(bench(notes=["Speed: of a busy machine"])))
    assert "Speed: of a busy machine" in efficiency_table("s4_table3", load_bench(tmp_path), PUBLISHED).notes
    (tmp_path / "layer.json").write_text(json.dumps(bench(rows=[{"row": "S4"}])))
    with pytest.raises(ValueError, match=r"layer\.json: rows\[0\]\.column is missing"):
        load_bench(tmp_path)


@pytest.mark.parametrize("dates", [("2026-01-31", "2026-03-01"), ("2026-03-01", "2026-01-31")])
def test_newest_measurement_is_shown(tmp_path, dates):
    for name, date in zip("ab", dates, strict=True):
        rows = [{"row": "S4", "column": "speed, length 4096", "value": float(date[6]), "unit": "x"}]
        (tmp_path / f"{name}.json").write_text(json.dumps(bench(started=f"{date}T12:00:00Z", rows=rows)))
    table = efficiency_table("s4_table3", load_bench(tmp_path), PUBLISHED)
    assert row_of(table, "↳ here: S4")["speed, length 4096 [x]"] == "3.00"


@pytest.mark.parametrize(("value", "text"), [(100.0, "100"), (10.04, "10.0"), (1.004, "1.00"), (0.1234, "0.123")])
def test_measured_values_have_three_digits(value, text):
    """Published ones have as many as printed."""
    assert str(entry(Measured(value, "x", bench=None), "x")) == text
    assert str(entry(Quantity("", "", "", value, "x"), "x")) == f"{value:g}"
    assert str(entry(Quantity("", "", "", value, "ms", verified=False), "x")) == f"{value:g} ms?"


@pytest.mark.parametrize("name", EFFICIENCY_TABLES)
def test_tables_without_benchmarks_name_the_command(name, tmp_path):
    table = efficiency_table(name, load_bench(tmp_path / "none"), PUBLISHED)
    assert table.rows
    assert "make bench" in table.notes[0]


def test_csv_has_published_and_measured_values(tmp_path):
    (tmp_path / "layer.json").write_text(json.dumps(bench()))
    lines = list(csv.DictReader(io.StringIO(efficiency_csv("s4_table3", load_bench(tmp_path), PUBLISHED))))
    line = next(line for line in lines if (line["row"], line["column"]) == ("S4", "speed, length 4096"))
    assert (line["published"], line["measured"], line["unit"], line["device"]) == ("5.19", "6.123", "x", "gpu")
    assert sum(bool(line["measured"]) for line in lines) == 1


def test_columns_are_sorted_by_length(tmp_path):
    rows = [{"row": "S4", "column": f"speed, length {n}", "value": 6.1, "unit": "x"} for n in (4096, 2048)]
    (tmp_path / "layer.json").write_text(json.dumps(bench(rows=rows)))
    header = efficiency_table("s4_table3", load_bench(tmp_path), PUBLISHED).header
    lengths = [int(name.split("length ")[1].split(" ")[0]) for name in header[1:]]
    assert lengths == sorted(lengths)
    assert 2048 in lengths
