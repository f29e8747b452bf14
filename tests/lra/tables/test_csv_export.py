"""Tables as CSV: one line per cell."""

import csv
import io

import pytest

from helpers.made_up_runs import PUBLISHED, ZOO
from lra.tables.csv_export import paper_csv, scale_csv
from lra.tables.paper import PAPER_TABLES


def test_csv_has_a_line_for_every_measured_cell():
    lines = list(csv.DictReader(io.StringIO(scale_csv(ZOO, PUBLISHED, "paper"))))
    measured = [line for line in lines if line["runs"]]
    assert [line["model"] for line in lines if line["task"] == "average"] == ["s4", "s4d"]
    assert len(measured) == 6 + 6 + 4 + 4 + 1 + 1 + 1
    s4 = next(line for line in measured if line["model"] == "s4" and line["task"] == "listops" and not line["variant"])
    assert (s4["mean"], s4["std"], s4["published"], s4["difference"]) == ("59.1000", "0.1000", "59.6", "-0.50")


@pytest.mark.parametrize("name", PAPER_TABLES)
def test_paper_csv_has_printed_scores_and_ours(name):
    lines = list(csv.DictReader(io.StringIO(paper_csv(name, ZOO, PUBLISHED))))
    printed = [p for p in PUBLISHED.rows if PAPER_TABLES[name].source in p.source]
    assert len(lines) == sum(len(p.scores) + 1 for p in printed)
    ours = next(line for line in lines if (line["model"], line["task"]) == ("transformer", "listops"))
    assert (ours["published"], ours["mean"], ours["difference"]) == ("36.37", "36.0000", "-0.37")
    assert (ours["runs"], ours["learned"], ours["std"]) == ("1", "1", "")
    empty = next(line for line in lines if line["model"] == "bigbird")
    assert (empty["published"], empty["mean"], empty["runs"]) == ("36.05", "", "")
