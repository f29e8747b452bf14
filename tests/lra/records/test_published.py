"""Published numbers are read as printed; missing, failed and unverified ones are told apart."""

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.made_up_runs import PUBLISHED
from lra.config.overrides import options
from lra.records.published import ModelInfo, Published, PublishedRow, Quantity, load_published

LRA = "model,family,listops,text,retrieval,image,pathfinder,pathx,avg,avg_convention,source,note,verified"
SPEED = "model,length,steps_per_second,peak_memory_gb_per_device,speed_ratio_to_transformer,source,note,verified"
FILES = {
    "lra.csv": [LRA, "A,x,36.5,,,,,FAIL,53.5,FAIL=50,a paper,as run there,yes: its text", "B,x,,7,,,,,,,another,,no"],
    "models.csv": ["stem,title,family,row", "a,A title,x,A", "b,B title,x,"],
    "lra_speed.csv": [
        SPEED,
        'A,1K,8.1,,,"LRA paper, Table 2",,no: from memory',
        'A,2K,,2.5,,"LRA paper, Table 2",,yes',
        'A,,3.0,3.0,,"LRA paper, Table 2",without a length,yes',
        "A,1K,9.0,9.0,,another paper,,yes",
    ],
    "s4_tables.csv": [
        "table,row,column,value,unit,note,verified",
        'Table 2 (S4 vs LSSL),S4,"training step, dim 128",4.77,ms,,yes',
        "Table 9,S4,x,none,ms,,yes",
    ],
}


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, lines in FILES.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path


def test_files_are_read_completely(folder):
    found = load_published(folder)
    assert found.rows == [
        PublishedRow("A", {"listops": 36.5, "pathx": None}, 53.5, "FAIL=50", "a paper", "as run there", True),
        PublishedRow("B", {"text": 7.0}, None, "", "another", "", False),
    ]
    assert found.models == {"a": ModelInfo("a", "A title", "x", "A"), "b": ModelInfo("b", "B title", "x", None)}
    assert found.quantities == [
        Quantity("LRA Table 2", "A", "steps/s, 1K", 8.1, "steps/s", verified=False, here=False),
        Quantity("LRA Table 2", "A", "GB, 2K", 2.5, "GB", verified=True, here=False),
        Quantity("S4 Table 2", "S4", "training step, dim 128", 4.77, "ms", verified=True, here=False),
    ]
    assert found.row_of("a") == found.rows[0]
    assert found.row_of("b") is found.row_of("unknown") is None
    assert found.model("unknown") == ModelInfo("unknown", "unknown", "other")


def test_invalid_number_names_its_place(folder):
    (folder / "lra.csv").write_text(f"{LRA}\nA,x,36;5,,,,,,,,,,\n")
    with pytest.raises(ValueError, match=r"lra\.csv:2: '36;5' is not a number"):
        load_published(folder)


def test_failures_average_as_chance():
    def row(*scores: float | None, convention: str = "none given") -> PublishedRow:
        tasks = ("listops", "text", "retrieval", "image", "pathfinder", "pathx")
        return PublishedRow("A", dict(zip(tasks, scores, strict=False)), 99.0, convention, "", "", True)

    assert row(None, None, None, None, None, None).six_task_average == pytest.approx((10 + 50 + 50 + 10 + 50 + 50) / 6)
    assert row(40, 70, 60, 40, 80, None).six_task_average == pytest.approx((40 + 70 + 60 + 40 + 80 + 50) / 6)
    assert row(40, 70, 60, 40, 80).six_task_average is None
    assert row(40, 70, 60, 40, 80, None, convention="FAIL=50").six_task_average == 99.0
    assert Published().rows == []


def test_printed_averages_match_printed_scores():
    for row in PUBLISHED.rows:
        if row.convention in ("all six", "FAIL=50") and row.average is not None:
            unmarked = replace(row, convention="")
            assert unmarked.six_task_average == pytest.approx(row.average, abs=0.02), row.model


def test_models_name_published_rows_that_exist():
    for stem, info in PUBLISHED.models.items():
        assert info.row is None or PUBLISHED.row_of(stem) is not None, stem


def test_every_listed_model_exists_or_has_a_published_row():
    rows = {row.model for row in PUBLISHED.rows}
    assert [m.stem for m in PUBLISHED.models.values() if m.row is not None and m.row not in rows] == []
    assert [m.stem for m in PUBLISHED.models.values() if m.row is None and m.stem not in options("model")] == []
