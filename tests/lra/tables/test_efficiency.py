"""Tables of speed and memory: measured values next to published ones."""

import csv
import io
import json

import pytest

from helpers.made_up_runs import BASE, PUBLISHED, row_of
from helpers.records import replace
from lra.paths import RESULTS
from lra.records.benchmark import Bench, Figure, load_bench
from lra.records.published import Quantity
from lra.tables.csv_export import efficiency_csv
from lra.tables.efficiency import EFFICIENCY_TABLES, Measured, comparable, efficiency, efficiency_table, entry


def figure(value: float, length: int = 4096) -> Figure:
    return Figure(row="S4", column=f"speed, length {length}", value=value, unit="x")


BENCH = Bench(
    table="S4 Table 3",
    command="python scripts/bench.py layer",
    started="2026-01-31T12:00:00Z",
    git=BASE.git,
    hardware=BASE.hardware,
    versions={},
    rows=[figure(6.123)],
)


def test_benchmark_files_round_trip(tmp_path):
    noted = replace(BENCH, notes=["Speed: of a busy machine"])
    noted.write(tmp_path / "layer.json")
    (tmp_path / "other.json").write_text('{"something": "else"}')
    assert load_bench(tmp_path) == [noted]
    content = json.loads((tmp_path / "layer.json").read_text())
    (tmp_path / "layer.json").write_text(json.dumps({**content, "rows": [{"row": "S4"}]}))
    with pytest.raises(ValueError, match=r"layer\.json: rows\[0\]\.column is missing"):
        load_bench(tmp_path)


def test_benchmarks_fill_the_tables():
    table = efficiency_table("s4_table3", [replace(BENCH, notes=["Speed: of a busy machine"])], PUBLISHED)
    assert row_of(table, "S4 (paper)")["speed, length 4096 [x]"] == "5.19"
    assert row_of(table, "↳ here: S4")["speed, length 4096 [x]"] == "6.12"
    assert any("here: cpu" in note for note in table.notes)
    assert "Speed: of a busy machine" in table.notes


@pytest.mark.parametrize("months", [(1, 3), (3, 1)])
def test_newest_measurement_is_shown(months):
    benches = [replace(BENCH, started=f"2026-0{m}-01T12:00:00Z", rows=[figure(m)]) for m in months]
    table = efficiency_table("s4_table3", benches, PUBLISHED)
    assert row_of(table, "↳ here: S4")["speed, length 4096 [x]"] == "3.00"


@pytest.mark.parametrize(("value", "text"), [(100.0, "100"), (10.04, "10.0"), (1.004, "1.00"), (0.1234, "0.123")])
def test_measured_values_have_three_digits(value, text):
    """Published ones have as many as printed."""
    assert str(entry(Measured(value, "x", BENCH), "x")) == text
    assert str(entry(Quantity("", "", "", value, "x"), "x")) == f"{value:g}"
    assert str(entry(Quantity("", "", "", value, "ms", verified=False), "x")) == f"{value:g} ms?"


@pytest.mark.parametrize("name", EFFICIENCY_TABLES)
def test_empty_tables_name_the_command(name):
    table = efficiency_table(name, [], PUBLISHED)
    assert table.rows
    assert "make bench" in table.notes[0]


def test_csv_has_published_and_measured_values():
    lines = list(csv.DictReader(io.StringIO(efficiency_csv("s4_table3", [BENCH], PUBLISHED))))
    line = next(line for line in lines if (line["row"], line["column"]) == ("S4", "speed, length 4096"))
    assert (line["published"], line["measured"], line["unit"], line["device"]) == ("5.19", "6.123", "x", "cpu")
    assert sum(bool(line["measured"]) for line in lines) == 1


@pytest.mark.parametrize("name", EFFICIENCY_TABLES)
def test_values_of_two_machines_are_compared_as_ratios_only(name):
    benches = load_bench(RESULTS / "bench")
    shown = comparable(efficiency(name, benches, PUBLISHED))
    assert shown.printed
    assert {quantity.unit for quantity in shown.printed.values()} == {"x"}
    lines = list(csv.DictReader(io.StringIO(efficiency_csv(name, benches, PUBLISHED))))
    assert {line["unit"] for line in lines if line["published"]} == {"x"}


def test_speed_is_divided_by_the_transformer_of_the_same_source():
    figures = [("Transformer", 4.0), ("Performer", 3.0), ("Performer, 16K", 1.0)]
    rows = [
        Figure(row=row.split(",")[0], column=f"steps/s, {'16K' if '16K' in row else '4K'}", value=value, unit="steps/s")
        for row, value in figures
    ]
    table = efficiency_table("lra_table2", [replace(BENCH, table="LRA Table 2", rows=rows)], PUBLISHED)
    # the paper: 8 and 1.4 steps a second
    assert row_of(table, "Performer (paper)")["speed, 4K [x]"] == "5.71"
    assert row_of(table, "↳ here: Performer")["speed, 4K [x]"] == "0.750"
    assert row_of(table, "Transformer (paper)")["speed, 1K [x]"] == "1?"
    # no Transformer of this length: nothing to compare with
    assert "speed, 16K [x]" not in table.header


def test_columns_are_sorted_by_length():
    bench = replace(BENCH, rows=[figure(6.1, 4096), figure(6.1, 2048)])
    header = efficiency_table("s4_table3", [bench], PUBLISHED).header
    assert [name.split()[-2] for name in header[1:]] == ["1024", "1024", "2048", "4096", "4096"]
