"""Comparison tables: no hole is averaged over, nothing is mixed or dropped; golden files pin the text."""

import io
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import rich.console

from helpers.made_up_runs import PUBLISHED, ZOO, grid, paper, ran, row_of
from helpers.records import replace
from lra.paths import ROOT
from lra.records.published import TASKS
from lra.records.record import Data, Git
from lra.tables.aggregate import SeedGroup, aggregate, differ
from lra.tables.build import table_files
from lra.tables.comparison import MEANING, scale_table, variants_table
from lra.tables.csv_export import scale_csv
from lra.tables.efficiency import EFFICIENCY_TABLES
from lra.tables.formats import Entry, Table, escape_latex, latex, markdown, terminal
from lra.tables.paper import PAPER_TABLES, paper_table


def image_on(fingerprint: str, kind: str = "generated") -> Data:
    return Data(kind=kind, fingerprint=fingerprint, counts={"test": 1000}, trivial=0.1)


@pytest.mark.parametrize("name", ["md", "tex", "csv"])
def test_golden_tables(name):
    text = {"md": markdown, "tex": latex, "csv": lambda _: scale_csv(ZOO, PUBLISHED, "paper")}[name](paper(ZOO))
    assert text == (ROOT / "tests" / "golden" / f"table.{name}").read_text()


def test_measured_and_published_row_of_a_model():
    table = paper(grid("s4", 590, 860, seeds=3))
    row, printed = row_of(table, "S4"), row_of(table, "↳ paper: S4 (updated)")
    assert (row["ListOps"], row["Image"], row["Runs"]) == ("59.10 ± 0.10 (3)", "—", "6/6")
    assert (printed["ListOps"], printed["Image"], printed["Avg"]) == ("59.60 (Δ -0.50)", "88.65", "86.09")


@pytest.mark.parametrize("changes", [{"scale": "mini"}, {"data": image_on("a", "subset")}])
def test_no_difference_unless_comparable(changes):
    """Not at another scale, nor for part of the data."""
    table = scale_table([ran("s4", "image", 590, **changes)], PUBLISHED, changes.get("scale", "paper"))
    assert row_of(table, "↳ paper: S4 (updated)")["Image"] == "88.65"


def test_smaller_scales_show_only_what_was_run():
    runs = [replace(r, scale="mini") for r in (*grid("s4", 590), *grid("transformer", 360))]
    table = scale_table(runs, PUBLISHED, "mini", every_task=False)
    assert table.header == ("Model", "ListOps", "Avg", "Runs")
    models = ["Transformer", "↳ paper: Transformer", "S4", "↳ paper: S4 (updated)"]
    assert [row[0].text for row in table.rows] == ["Commonest label", *models]


def test_each_case_has_its_sign():
    table = paper(ZOO)
    failed = row_of(table, "Performer")
    assert [failed[t] for t in ("ListOps", "Text", "Image", "Retrieval")] == ["✗ (1)", "div. (1)", "OOM (1)", "… (1)"]
    assert row_of(table, "S4D-Inv (paper)")["ListOps"] == "60.18?"
    assert row_of(table, "NEWCOMER")["ListOps"] == "40.00†‡ (1)"


def test_run_at_chance_counts_as_chance():
    row = row_of(paper(grid("s4", 600, 800, 800, 800, 800, 512)), "S4")
    assert (row["Path-X"], row["Avg"]) == ("✗ (1)", f"{(60 + 4 * 80 + 50) / 6:.2f}")


def test_failed_seeds_count_in_the_average():
    runs = [r for r in grid("s4", 600, 800, 800, 800, 800, 900) if r.task != "pathx"]
    runs += [ran("s4", "pathx", 900), ran("s4", "pathx", 500, seed=1)]
    runs += [ran("s4", "pathx", None, seed=2, status="diverged", reason="NaN")]
    table = paper(runs)
    row, average = row_of(table, "S4"), (60 + 4 * 80 + (90 + 50 + 50) / 3) / 6
    assert (row["Path-X"], row["Avg"], row["Runs"]) == ("90.00 (1 of 3)", f"{average:.2f}", "7/8")
    assert any("Path-X, seed 2: diverged" in note for note in table.notes)


def test_no_average_over_a_hole():
    five = grid("s4", 600, 800, 800, 800, 800)
    assert row_of(paper(five), "S4")["Avg"] == "—"
    row = row_of(paper([*five, ran("s4", "pathx", None, status="running", finished=None)]), "S4")
    assert (row["Path-X"], row["Avg"]) == ("… (1)", "—")


def test_score_of_a_failed_run_does_not_count():
    table = paper([ran("s4", "listops", 900, status="oom", reason="after the test")])
    assert row_of(table, "S4")["ListOps"] == "OOM (1)"


def test_other_tasks_are_the_last_columns():
    columns = aggregate([ran("s4", task, 900) for task in "ebdac"], PUBLISHED, "paper").columns
    assert [c.task for c in columns] == [*TASKS, *"abcde"]


def test_kinds_of_data_are_never_mixed():
    toy = Data(kind="toy", fingerprint="x", counts={}, trivial=0.175)
    table = paper([ran("s4", "listops", 600), ran("s4", "listops", 900, seed=1, data=toy)])
    assert row_of(table, "S4")["ListOps"] == "60.00 (1)"
    assert row_of(table, "S4 (other data)")["ListOps"] == "90.00ᵗ (1)"
    assert any("2 different sets of test examples" in note for note in table.notes)
    assert not any(entry.bold for row in table.rows for entry in row)


def test_data_with_more_runs_comes_first():
    runs = [ran("s4", "image", n, seed=n, data=image_on(name)) for n, name in ((600, "a"), (700, "b"), (700 + 20, "b"))]
    assert row_of(paper(runs), "S4")["Image"] == "71.00 ± 1.41ᵍ (2)"
    assert row_of(paper(runs), "S4 (other data)")["Image"] == "60.00ᵍ (1)"


@pytest.mark.parametrize(
    "others", [[("gru", image_on("a"))], [("gru", image_on("a", "toy")), ("fnet", image_on("a", "toy"))]]
)
def test_best_is_chosen_on_the_commonest_test_set(others):
    """If two are equally common, on the better kind of data."""
    runs = [ran("s4", "image", 600, data=image_on("b")), ran("lstm", "image", 400, data=image_on("b"))]
    runs += [ran(model, "image", 900, data=data) for model, data in others]
    assert [e.text[:5] for row in paper(runs).rows for e in row if e.bold] == ["60.00"]


@pytest.mark.parametrize(("kind", "compete"), [("official", True), ("subset", True), ("generated", False)])
def test_results_on_equal_test_sets_compete(kind, compete):
    """Another train/validation split changes the fingerprint, another draw also the test examples."""
    datas = [image_on("one", kind), image_on("other", kind)]
    table = paper([ran(m, "image", n, data=d) for m, n, d in zip(("s4", "lstm"), (600, 400), datas, strict=True)])
    assert [e.text[:5] for row in table.rows for e in row if e.bold] == ["60.00"] * compete


def test_scales_are_never_mixed():
    table = paper([ran("s4", "listops", 600), ran("s4", "text", 600, scale="mini")])
    assert row_of(table, "S4")["Text"] == "—"


def test_best_is_bold_and_its_equals_are_marked():
    table = paper([*grid("s4", 600, 800), *grid("s4d", 590, 600), *grid("lstm", 300, 610)])
    texts = {str(e) for row in table.rows for e in row if e.bold}
    assert texts == {"60.00 (1)", "80.00 (1)"}
    assert row_of(table, "S4D")["ListOps"] == "≈ 59.00 (1)"
    assert row_of(table, "S4D")["Text"] == "60.00 (1)"


def test_no_best_if_all_stay_at_chance():
    table = paper([ran("s4", "listops", 175), ran("lstm", "listops", 170)])
    assert row_of(table, "S4")["ListOps"] == row_of(table, "LSTM")["ListOps"] == "✗ (1)"
    assert not any(entry.bold for row in table.rows for entry in row)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        # one seed each: two proportions, p = 0.0515 and 0.0463
        ([600], [557], False),
        ([600], [556], True),
        # several seeds each: Welch's test, whatever the number of examples
        ([600, 601], [590, 591], True),
        ([600, 660], [540, 560], False),
        # several seeds on one side: all their examples
        ([600, 601], [560], True),
    ],
)
def test_results_differ_by_seeds_or_by_examples(a, b, expected):
    one, other = (SeedGroup(tuple(ran("s4", "image", n, seed=n) for n in counts)) for counts in (a, b))
    assert differ(one, other) == differ(other, one) == expected


def test_exactly_the_signs_used_are_explained():
    table = paper(ZOO)
    body = " ".join(str(e) for row in table.rows for e in row)
    for sign in MEANING:
        assert (sign in body) == any(note.startswith(f"{sign}:") for note in table.notes), sign


def test_hardware_and_commits_are_notes():
    git = Git(commit="a" * 40, dirty=True)
    table = paper([ran("s4", "listops", 600), *(ran("s4", "listops", 600, seed=s, git=git) for s in (1, 2))])
    assert "Hardware: cpu, 2 threads (3 runs)" in table.notes
    assert "Commit: aaaaaaaaaa with uncommitted changes (2 runs); 0000000000 (1 run)" in table.notes


def test_table_without_runs_names_the_command():
    table = paper([])
    assert len(table.rows) > 30
    assert "make lra-all SCALE=paper" in table.notes[0]


def test_special_characters_in_names_are_escaped():
    name = "a|b & c_d \\ {x} ~ ^ %\n# $"
    table = paper([ran("strange", "listops", 600, title=name)])
    lines = markdown(table).splitlines()
    assert {line.replace("\\|", "").count("|") for line in lines if line.startswith("| ")} == {len(table.header) + 1}
    row = next(line for line in latex(table).splitlines() if line.startswith("a"))
    assert row.replace(r"\&", "").count("&") == len(table.header) - 1
    assert r"\$" in row
    assert escape_latex("a --b") == "a -{}-b"


@pytest.mark.parametrize("name", PAPER_TABLES)
def test_paper_tables_have_printed_rows_and_ours(name):
    empty, full = paper_table(name, [], PUBLISHED), paper_table(name, ZOO, PUBLISHED)
    assert len(empty.rows) >= 9
    printed = [row for row in full.rows if row[0].text.endswith("(paper)")]
    assert [row[0] for row in printed] == [row[0] for row in empty.rows]
    assert row_of(full, "Transformer (paper)")["ListOps"] == "36.37 (Δ -0.37)"
    assert row_of(full, "↳ here: Transformer")["ListOps"] == "36.00 (1)"


def test_average_follows_the_papers_rule():
    five = grid("transformer", 360, 640, 570, 420, 710)
    assert row_of(paper_table("s4_table4", five, PUBLISHED), "↳ here: Transformer")["Avg"] == "—"
    assert row_of(paper_table("lra_table1", five, PUBLISHED), "↳ here: Transformer")["Avg"] == "54.00"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    document = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}%s\\end{document}"
    (tmp_path / "t.tex").write_text(document % latex(paper(ZOO)))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_row_of_wrong_width_is_refused():
    with pytest.raises(ValueError, match="a row of 1 under a header of 2"):
        Table("t", "t", ("a", "b"), ((Entry("x"),),))


@pytest.mark.parametrize("width", [70, 80, 120, 200])
def test_terminal_cuts_nothing_at_any_width(width):
    table = paper(ZOO)
    console = rich.console.Console(width=width, record=True, file=io.StringIO())
    console.print(terminal(table, room=console.width))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    shown = Counter(text)
    for row in table.rows:
        shown.subtract("".join(map(str, row)))
    shown.subtract("".join([table.title, *table.header, *table.notes]))
    assert {sign for sign, count in shown.items() if count < 0} <= {" "}, shown


def test_notes_of_a_narrow_table_have_full_width():
    note = "mean ± sample standard deviation over the seeds that learned"
    console = rich.console.Console(width=80, record=True, file=io.StringIO())
    console.print(terminal(Table("t", "A title of some length", ("a", "b"), ((Entry("x"), Entry("1")),), (note,))))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert (lines[0], lines[-1]) == ("A title of some length", note)


def test_every_table_has_three_formats():
    files = table_files(ZOO, PUBLISHED, [])
    names = {Path(name).stem for name in files}
    assert {"paper", *PAPER_TABLES, *EFFICIENCY_TABLES} <= names
    variants = {"paper_variants.csv"}  # in the file of the scale
    assert set(files) == {f"{name}.{suffix}" for name in names for suffix in ("md", "csv", "tex")} - variants


def test_variants_have_a_table_of_their_own_and_never_compete():
    better = [ran("s4", "listops", 990, variant=["training.steps=9"]), ran("s5", "listops", 995, variant=["x=1"])]
    records = [*grid("s4", 600), *grid("s4d", 500), *better]
    main = paper(records)
    assert [e.text for row in main.rows for e in row if e.bold] == ["60.00"]
    assert not any("training.steps" in row[0].text for row in main.rows)
    assert [row[0].text for row in main.rows if row[0].text.startswith(("S4", "↳"))][:2] == [
        "S4",
        "↳ paper: S4 (updated)",
    ]
    apart = variants_table(aggregate(records, PUBLISHED, "paper"))
    assert [row[0].text for row in apart.rows] == ["S4", "↳ S4 with training.steps=9", "↳ S5 with x=1"]
    assert row_of(apart, "↳ S4 with training.steps=9")["ListOps"] == "99.00 (1)"
    assert not any(e.bold for row in apart.rows for e in row)
    assert variants_table(aggregate(grid("s4", 600), PUBLISHED, "paper")) is None
