"""Tables: nothing is averaged over, mixed or dropped in silence; the text is pinned by golden files."""

import csv
import io
import json
import math
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import rich.console
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lra import cells, statistics
from lra.efficiency import EFFICIENCY_TABLES, efficiency_table, load_bench
from lra.papers import PAPER_TABLES, paper_table
from lra.published import TASKS, load_published
from lra.render import Entry, Table, escape_latex, latex, markdown, terminal
from lra.results import Data, Git, Record, Selection, load
from lra.tables import MEANING, scale_table
from lra.tableset import table_files
from lra.tidy import efficiency_csv, paper_csv, tidy_csv

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
BASE = load(GOLDEN / "record.json")
PUBLISHED = load_published(ROOT / "results" / "published")
CHANCE = {"listops": 0.175, "text": 0.5, "retrieval": 0.5, "image": 0.1, "pathfinder": 0.5, "pathx": 0.5}


def ran(model: str, task: str, correct: int | None, *, seed: int = 0, n: int = 1000, **changes: object) -> Record:
    """A run of `model` that got `correct` of n test examples right; None: it never came to the test."""
    score = {"test_correct": correct, "n_test": n, "test_accuracy": correct / n} if correct is not None else {}
    blank = {"test_correct": None, "n_test": None, "test_accuracy": None}
    data = Data(kind="official", fingerprint=task, counts={"test": n}, chance=CHANCE.get(task, 0.5))
    fields = {"model": model, "title": model.upper(), "task": task, "seed": seed, "data": data, "scale": "paper"}
    return replace(BASE, **{**fields, **blank, **score, **changes})


def grid(model: str, *scores: int, seeds: int = 1) -> list[Record]:
    """Runs on the first tasks; each further seed gets one example more right."""
    cell = zip(TASKS, scores, strict=False)
    return [ran(model, task, score + seed, seed=seed) for task, score in cell for seed in range(seeds)]


def row_of(table: Table, label: str) -> dict[str, str]:
    row = next(row for row in table.rows if row[0].text == label)
    return {name: e.text for name, e in zip(table.header, row, strict=True)}


def paper(records: list[Record], **options: bool) -> Table:
    return scale_table(records, PUBLISHED, "paper", **options)


ZOO = [
    *grid("s4", 590, 860, 900, 880, 940, 960, seeds=3),
    *grid("s4d", 595, 850, 890, 881, 930, 500),
    *grid("transformer", 360, 640, 570, 420),
    ran("performer", "listops", 175),
    ran("performer", "text", None, status="diverged", reason="loss became NaN at step 812", steps_done=812),
    ran("performer", "image", None, status="oom", reason="needed 9.4 GiB"),
    ran("performer", "retrieval", None, status="interrupted", reason="stopped by SIGTERM", steps_done=5),
    ran("newcomer", "listops", 400, recipe=None, selection=Selection(rule="best", on_test=True)),
    ran("s4", "listops", 580, variant=["model.mixer.dt_min=0.1"]),
    ran("s4", "speech", 950),
]


def test_golden_tables():
    table = paper(ZOO)
    made = {"md": markdown(table), "tex": latex(table), "csv": tidy_csv(ZOO, PUBLISHED, "paper")}
    for suffix, text in made.items():
        assert text == (GOLDEN / f"table.{suffix}").read_text(), (
            f"tests/golden/table.{suffix} is not what is rendered now"
        )


def test_a_cell_is_mean_deviation_and_count():
    table = paper(grid("s4", 590, 860, seeds=3))
    assert row_of(table, "S4")["ListOps"] == "59.10 ± 0.10 (3)"
    assert row_of(table, "S4")["Image"] == "—"
    assert row_of(table, "S4")["Runs"] == "6/6"


def test_published_numbers_stand_beneath_with_the_difference():
    paper_row = row_of(paper(grid("s4", 590, seeds=3)), "↳ paper: S4 (updated)")
    assert paper_row["ListOps"] == "59.60 (Δ -0.50)"
    assert paper_row["Text"] == "86.82"
    assert paper_row["Avg"] == "86.09"


def test_no_difference_is_taken_at_another_scale_or_from_part_of_the_data():
    small = [replace(r, scale="mini") for r in grid("s4", 590)]
    assert row_of(scale_table(small, PUBLISHED, "mini"), "↳ paper: S4 (updated)")["ListOps"] == "59.60"
    part = [replace(r, data=replace(r.data, kind="subset")) for r in grid("s4", 590)]
    assert row_of(paper(part), "↳ paper: S4 (updated)")["ListOps"] == "59.60"


def test_unverified_published_numbers_are_marked():
    assert row_of(paper([]), "S4D-Inv (paper)")["ListOps"] == "60.18?"


def test_a_run_at_chance_has_failed_and_counts_as_chance_in_the_average():
    table = paper(grid("s4", 600, 800, 800, 800, 800, 512))
    assert row_of(table, "S4")["Path-X"] == "✗ (1)"
    assert row_of(table, "S4")["Avg"] == f"{(60 + 4 * 80 + 50) / 6:.2f}"


def test_failed_seeds_are_counted_and_weigh_on_the_average():
    runs = [r for r in grid("s4", 600, 800, 800, 800, 800, 900) if r.task != "pathx"]
    runs += [ran("s4", "pathx", 900), ran("s4", "pathx", 500, seed=1)]
    runs += [ran("s4", "pathx", None, seed=2, status="diverged", reason="NaN")]
    table = paper(runs)
    assert row_of(table, "S4")["Path-X"] == "90.00 (1 of 3)"
    assert row_of(table, "S4")["Avg"] == f"{(60 + 4 * 80 + (90 + 50 + 50) / 3) / 6:.2f}"
    assert row_of(table, "S4")["Runs"] == "7/8"
    assert any("Path-X, seed 2: diverged" in note for note in table.notes)


def test_there_is_no_average_over_a_hole():
    assert row_of(paper(grid("s4", 600, 800, 800, 800, 800)), "S4")["Avg"] == "—"
    begun = [*grid("s4", 600, 800, 800, 800, 800), ran("s4", "pathx", None, status="running", finished=None)]
    assert row_of(paper(begun), "S4")["Avg"] == "—"
    assert row_of(paper(begun), "S4")["Path-X"] == "… (1)"


def test_every_way_to_end_is_told_apart():
    row = row_of(paper(ZOO), "Performer")
    assert [row[t] for t in ("ListOps", "Text", "Image", "Retrieval")] == ["✗ (1)", "div. (1)", "OOM (1)", "… (1)"]


def test_untuned_and_chosen_on_test_are_marked_and_unknown_models_shown():
    assert row_of(paper(ZOO), "NEWCOMER")["ListOps"] == "40.00†‡ (1)"


def test_variants_and_other_tasks_have_their_own_place():
    table = paper(ZOO)
    assert row_of(table, "S4 [model.mixer.dt_min=0.1]")["ListOps"] == "≈ 58.00 (1)"
    assert row_of(table, "S4")["speech"] == "95.00 (1)"
    assert table.header[-3:] == ("speech", "Avg", "Runs")


def test_kinds_of_data_are_never_mixed_in_a_cell():
    toy = Data(kind="toy", fingerprint="x", counts={}, chance=0.175)
    table = paper([ran("s4", "listops", 600), ran("s4", "listops", 900, seed=1, data=toy)])
    assert row_of(table, "S4")["ListOps"] == "60.00 (1)"
    assert row_of(table, "S4 (other data)")["ListOps"] == "90.00ᵗ (1)"
    assert any("2 different data sets" in note for note in table.notes)
    assert not any(entry.bold for row in table.rows for entry in row)


def test_scales_are_never_mixed():
    with pytest.raises(ValueError, match="scales mini, paper"):
        cells.rows_of([ran("s4", "listops", 600), ran("s4", "text", 600, scale="mini")])
    table = paper([ran("s4", "listops", 600), ran("s4", "text", 600, scale="mini")])
    assert row_of(table, "S4")["Text"] == "—"


def test_the_best_is_bold_and_what_does_not_differ_is_marked():
    table = paper([*grid("s4", 600, 800), *grid("s4d", 590, 600), *grid("lstm", 300, 610)])
    texts = {e.text for row in table.rows for e in row if e.bold}
    assert texts == {"60.00 (1)", "80.00 (1)"}
    assert row_of(table, "S4D")["ListOps"] == "≈ 59.00 (1)"
    assert row_of(table, "S4D")["Text"] == "60.00 (1)"


def test_every_sign_in_a_table_is_explained_and_no_other():
    table = paper(ZOO)
    body = " ".join(e.text for row in table.rows for e in row)
    for sign in MEANING:
        assert (sign in body) == any(note.startswith(f"{sign}:") for note in table.notes), sign


def test_hardware_and_commits_stand_beneath():
    table = paper([ran("s4", "listops", 600), ran("s4", "listops", 600, seed=1, git=Git(commit="a" * 40, dirty=True))])
    assert "Hardware: cpu, 2 threads (2 runs)" in table.notes
    assert "Commit: 0000000000 (1 run); aaaaaaaaaa with uncommitted changes (1 run)" in table.notes


def test_without_runs_published_rows_stay_and_the_command_is_named():
    table = paper([])
    assert len(table.rows) > 30
    assert "make lra-all SCALE=paper" in table.notes[0]


def test_a_name_cannot_break_a_table():
    name = "a|b & c_d \\ {x} ~ ^ %\n# $"
    table = paper([ran("strange", "listops", 600, title=name)])
    lines = markdown(table).splitlines()
    assert {line.replace("\\|", "").count("|") for line in lines if line.startswith("| ")} == {len(table.header) + 1}
    row = next(line for line in latex(table).splitlines() if line.startswith("a"))
    assert row.replace(r"\&", "").count("&") == len(table.header) - 1
    assert r"\$" in row
    assert escape_latex("a --b") == "a -{}-b"


@pytest.mark.parametrize("name", PAPER_TABLES)
def test_paper_tables_hold_the_printed_rows_and_ours(name):
    empty, full = paper_table(name, [], PUBLISHED), paper_table(name, ZOO, PUBLISHED)
    assert len(empty.rows) >= 9
    printed = [row for row in full.rows if row[0].text.endswith("(paper)")]
    assert [row[0] for row in printed] == [row[0] for row in empty.rows]
    assert row_of(full, "Transformer (paper)")["ListOps"] == "36.37 (Δ -0.37)"
    assert row_of(full, "↳ here: Transformer")["ListOps"] == "36.00 (1)"


def test_the_average_follows_the_rule_of_the_paper():
    five = grid("transformer", 360, 640, 570, 420, 710)
    assert row_of(paper_table("s4_table4", five, PUBLISHED), "↳ here: Transformer")["Avg"] == "—"
    assert row_of(paper_table("lra_table1", five, PUBLISHED), "↳ here: Transformer")["Avg"] == "54.00"


def test_printed_averages_follow_from_printed_scores_unless_marked():
    for row in PUBLISHED.rows:
        if row.convention in ("all six", "FAIL=50") and row.average is not None:
            unmarked = replace(row, convention="")
            assert unmarked.six_task_average == pytest.approx(row.average, abs=0.02), row.model


def test_every_listed_model_names_a_published_row_that_exists():
    for stem, info in PUBLISHED.models.items():
        assert info.row is None or PUBLISHED.row_of(stem) is not None, stem


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


def test_benchmarks_fill_the_efficiency_tables(tmp_path):
    (tmp_path / "layer.json").write_text(json.dumps(bench()))
    (tmp_path / "other.json").write_text('{"something": "else"}')
    benches = load_bench(tmp_path)
    table = efficiency_table("s4_table3", benches, PUBLISHED)
    assert row_of(table, "S4 (paper)")["speed, length 4096 [x]"] == "5.19"
    assert row_of(table, "↳ here: S4")["speed, length 4096 [x]"] == "6.12"
    assert any("here: gpu" in note for note in table.notes)
    benches[0].write(tmp_path / "layer.json")
    assert load_bench(tmp_path) == benches
    (tmp_path / "layer.json").write_text(json.dumps(bench(rows=[{"row": "S4"}])))
    with pytest.raises(ValueError, match=r"layer\.json: rows\[0\]\.column is missing"):
        load_bench(tmp_path)


@pytest.mark.parametrize("name", EFFICIENCY_TABLES)
def test_efficiency_tables_stand_without_benchmarks(name, tmp_path):
    table = efficiency_table(name, load_bench(tmp_path / "none"), PUBLISHED)
    assert table.rows
    assert "make bench" in table.notes[0]


def test_csv_has_a_line_for_every_measured_cell():
    lines = list(csv.DictReader(io.StringIO(tidy_csv(ZOO, PUBLISHED, "paper"))))
    measured = [line for line in lines if line["runs"]]
    assert [line["model"] for line in lines if line["task"] == "average"] == ["s4", "s4d"]
    assert len(measured) == 6 + 6 + 4 + 4 + 1 + 1 + 1
    s4 = next(line for line in measured if line["model"] == "s4" and line["task"] == "listops" and not line["variant"])
    assert (s4["mean"], s4["std"], s4["published"], s4["difference"]) == ("59.1000", "0.1000", "59.6", "-0.50")


def test_latex_is_balanced_and_uses_booktabs():
    text = latex(paper(ZOO))
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
    assert [text.count(rf"\{rule}") for rule in ("toprule", "midrule", "bottomrule")] == [1, 1, 1]
    bare = text.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    assert text.isascii() or set(text) - set(map(chr, range(128))) <= set("ö")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    document = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}%s\\end{document}"
    (tmp_path / "t.tex").write_text(document % latex(paper(ZOO)))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_row_of_another_width_is_refused():
    with pytest.raises(ValueError, match="a row of 1 under a header of 2"):
        Table("t", "t", ("a", "b"), ((Entry("x"),),))


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_terminal_shows_every_row_at_any_width(width):
    console = rich.console.Console(width=width, record=True, file=io.StringIO())
    console.print(terminal(paper(ZOO)))
    text = console.export_text()
    assert "NEWCOMER" in text
    assert max(map(len, text.splitlines())) <= width


def test_making_tables_twice_changes_nothing(tmp_path, monkeypatch, capsys):
    def make() -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "scripts" / "tables.py"), run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    for record in ZOO:
        record.write(record.path(tmp_path / "runs"))
    monkeypatch.setattr(sys, "argv", ["tables.py", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "tables")])
    first = make()
    before = {p.name: p.read_bytes() for p in (tmp_path / "tables").iterdir()}
    assert make() == first
    assert {p.name: p.read_bytes() for p in (tmp_path / "tables").iterdir()} == before
    assert before["paper.md"].decode() == markdown(paper(ZOO))
    (tmp_path / "runs" / "paper" / "s4" / "listops" / "0.json").write_text("{}")
    code, out, err = make()
    assert (code, out) == (1, "")
    assert "0.json: schema is None" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("script", ["tables", "report", "audit"])
def test_a_folder_that_is_not_there_is_an_error(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--runs", str(tmp_path / "misspelt")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    assert ended.value.code == 2
    assert "misspelt" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["tables", "report"])
def test_a_place_that_cannot_be_written_is_one_clear_line(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", [script, "--runs", str(tmp_path), "--out", str(tmp_path / "file" / "out")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert said.count("\n") == 1
    assert "file" in said


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 3000), share=st.floats(0, 1), chance=st.floats(0.01, 0.99))
def test_the_binomial_test_is_exact(n, share, chance):
    correct = round(share * n)
    p = stats.binomtest(correct, n, chance, alternative="greater").pvalue
    if abs(p - statistics.CHANCE_LEVEL) > 1e-9:
        assert statistics.beats_chance(correct, n, chance) == (p < statistics.CHANCE_LEVEL)


@settings(max_examples=100, deadline=None)
@given(a=st.lists(st.floats(0.1, 0.9), min_size=2, max_size=5), b=st.lists(st.floats(0.1, 0.9), min_size=2, max_size=5))
def test_welch_agrees_with_scipy(a, b):
    if min(statistics.deviation(a), statistics.deviation(b)) > 1e-3:
        assert statistics.welch(a, b) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue, abs=1e-9)


def test_equal_seeds_differ_only_if_their_means_do():
    assert statistics.welch([0.5, 0.5], [0.5, 0.5]) == 1.0
    assert statistics.welch([0.5, 0.5], [0.6, 0.6]) == 0.0


@pytest.mark.parametrize(("a", "b"), [((600, 1000), (560, 1000)), ((80, 200), (82, 200)), ((0, 10), (0, 20))])
def test_two_proportions_agree_with_the_chi_square_test(a, b):
    rows = [[a[0], a[1] - a[0]], [b[0], b[1] - b[0]]]
    expected = stats.chi2_contingency(rows, correction=False).pvalue if a[0] + b[0] else 1.0
    assert statistics.two_proportions(*a, *b) == pytest.approx(expected)


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (10, 10), (41, 100), (820, 2000)])
def test_the_interval_of_one_seed_is_clopper_pearson(correct, n):
    expected = stats.binomtest(correct, n).proportion_ci(0.95, "exact")
    assert statistics.interval([correct / n], correct, n) == pytest.approx((expected.low, expected.high))


def test_the_interval_over_seeds_is_students():
    values = [0.5, 0.52, 0.57]
    half = stats.t.ppf(0.975, 2) * stats.sem(values)
    low, high = statistics.interval(values, 0, 0)
    assert (low, high) == pytest.approx((math.fsum(values) / 3 - half, math.fsum(values) / 3 + half))


@pytest.mark.parametrize("name", PAPER_TABLES)
def test_a_paper_table_as_csv_has_every_printed_score_beside_ours(name):
    lines = list(csv.DictReader(io.StringIO(paper_csv(name, ZOO, PUBLISHED))))
    printed = [p for p in PUBLISHED.rows if PAPER_TABLES[name][1] in p.source]
    assert len(lines) == sum(len(p.scores) + 1 for p in printed)
    ours = next(line for line in lines if (line["model"], line["task"]) == ("transformer", "listops"))
    assert (ours["published"], ours["mean"], ours["difference"]) == ("36.37", "36.0000", "-0.37")
    assert (ours["runs"], ours["learned"], ours["std"]) == ("1", "1", "")
    empty = next(line for line in lines if line["model"] == "bigbird")
    assert (empty["published"], empty["mean"], empty["runs"]) == ("36.05", "", "")


def test_an_efficiency_table_as_csv_has_published_and_measured_values(tmp_path):
    (tmp_path / "layer.json").write_text(json.dumps(bench()))
    lines = list(csv.DictReader(io.StringIO(efficiency_csv("s4_table3", load_bench(tmp_path), PUBLISHED))))
    line = next(line for line in lines if (line["row"], line["column"]) == ("S4", "speed, length 4096"))
    assert (line["published"], line["measured"], line["unit"], line["device"]) == ("5.19", "6.123", "x", "gpu")
    assert sum(bool(line["measured"]) for line in lines) == 1


def test_columns_of_lengths_go_by_length(tmp_path):
    rows = [{"row": "S4", "column": f"speed, length {n}", "value": 6.1, "unit": "x"} for n in (4096, 2048)]
    (tmp_path / "layer.json").write_text(json.dumps(bench(rows=rows)))
    header = efficiency_table("s4_table3", load_bench(tmp_path), PUBLISHED).header
    lengths = [int(name.split("length ")[1].split(" ")[0]) for name in header[1:]]
    assert lengths == sorted(lengths)
    assert 2048 in lengths


def test_every_table_comes_in_three_forms():
    files = table_files(ZOO, PUBLISHED, [])
    names = {Path(name).stem for name in files}
    assert {"paper", *PAPER_TABLES, *EFFICIENCY_TABLES} <= names
    assert set(files) == {f"{name}.{form}" for name in names for form in ("md", "csv", "tex")}
