"""The report: whole in one file, honest about failures, well-formed whatever the records say, silent in a browser."""

import html.parser
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.records import replace
from lra.paths import ROOT
from lra.records.benchmark import load_bench
from lra.records.pictures import grey, signed
from lra.records.published import TASKS, load_published
from lra.records.record import Data, Example, Kernel, Point, Record, Selection, config_hash
from lra.records.store import load
from lra.report.page import flat, page

BASE = load(ROOT / "tests" / "golden" / "record.json")
PUBLISHED = load_published(ROOT / "results" / "published")
BENCHES = load_bench(ROOT / "results" / "bench")
DOTS = np.array([[0, 255]], np.uint8)
VOID = {"meta", "link", "img"}
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def ran(model: str, task: str, accuracy: float, seed: int = 0, **changes: object) -> Record:
    config = {"seed": seed, "model": {"d_model": 64}}
    curve = [Point(step=s, train_loss=3 / s, val_accuracy=accuracy * s / 100, seconds=s / 9) for s in range(5, 101, 5)]
    fields = {
        "model": model,
        "title": model,
        "task": task,
        "seed": seed,
        "config": config,
        "config_hash": config_hash(config),
        "data": Data(kind="generated", fingerprint=task, counts={"train": 100, "val": 10, "test": 1000}, chance=0.1),
        "test_accuracy": round(accuracy * 1000) / 1000,
        "test_correct": round(accuracy * 1000),
        "n_test": 1000,
        "parameters": 1000 + len(model),
        "steps_per_second": 10 + accuracy,
        "peak_memory_mib": 500.0,
        "total_seconds": 60.0,
        "curve": curve,
    }
    return replace(BASE, **{**fields, **changes})


def kernel(**given: object) -> Kernel:
    usual = {"layer": 0, "feature": 5, "length": 100, "starts": [0, 1, 2, 9]}
    line = [0.5, -1.0, 0.25, 0.0]
    return Kernel(**usual | {"before": [line, line], "after": [line, [1.0, 1.0, 1.0, 1.0]]} | given)


def failed(record: Record, status: str, reason: str) -> Record:
    return replace(record, status=status, reason=reason, test_accuracy=None, test_correct=None, n_test=None)


ZOO = [
    *(ran("s4", task, 0.8 + seed / 100, seed) for task in TASKS for seed in range(3)),
    *(ran("transformer", task, 0.5) for task in TASKS),
    ran("lstm", "listops", 0.1),
    failed(ran("performer", "image", 0.1), "diverged", "loss became NaN at step 812"),
    ran(
        "newcomer",
        "text",
        0.6,
        examples=[Example(label=1, predicted=0, text="<b>"), Example(label=1, predicted=1, picture=grey(DOTS))],
        kernels=[
            kernel(),
            kernel(layer=2, picture_before=signed(DOTS - 100.0), picture_after=signed(DOTS * 1.0)),
        ],
    ),
]


class Strict(html.parser.HTMLParser):
    """Every tag closed in order; ids unique; links to ids that exist; nothing fetched from anywhere."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: set[str] = set()
        self.text = ""
        self.feed(text)
        assert not self.open
        assert len(self.ids) == len(set(self.ids))
        assert self.targets <= set(self.ids)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        address = given.get("href") or given.get("src") or "#"
        assert address.startswith(("#", "data:", "https://wandb.ai/")), address
        self.targets |= {address[1:]} - {""} if address.startswith("#") else set()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_fetches_nothing():
    text = page(ZOO, PUBLISHED, "mini")
    Strict(text)
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\(|<script src|http:", text)


def test_the_page_is_a_pure_function_of_records():
    assert page(ZOO, PUBLISHED, "mini") == page(list(reversed(ZOO)), PUBLISHED, "mini")


def test_every_cell_and_every_failure_is_there():
    shown = Strict(page(ZOO, PUBLISHED, "mini")).text
    assert "81.00 ± 1.00ᵍ (3)" in shown
    assert "diverged after 100 of 100 steps: loss became NaN at step 812" in shown
    assert "stayed at chance, 10.00; the commonest label alone gives 10.00" in shown
    assert "26/27" in shown
    for record in ZOO:
        assert record.config_hash[:12] in shown


def section(name: str, text: str) -> str:
    return text[text.index(f'<section id="{name}">') :].split("</section>")[0] + "</section>"


def test_the_values_behind_the_charts_are_those_of_the_records():
    def values(text: str) -> list[list[str]]:
        rows = re.findall("<tr>(<td><span.*?)</tr>", text)
        return [[re.sub("<.*?>", "", cell) for cell in re.findall("<td>(.*?)</td>", row)] for row in rows]

    slow = {"steps_per_second": 2.0, "peak_memory_mib": 900.0, "total_seconds": 180.0}
    seeds = [ran("s4", "text", 0.8, 0, **slow), ran("s4", "text", 0.9, 1), ran("s4", "text", 0.7, 2)]
    runs = [ran("lstm", "text", 0.6), *seeds]
    shown = values(section("text", page(runs, PUBLISHED, "mini")))
    assert [row[0] for row in shown] == ["S4", "LSTM"]
    # accuracies of tests and validations, the last training loss, the middle speed, the most memory, the mean of times
    validation = f"{100 * sum(r.val_accuracy for r in seeds) / 3:.2f}"
    assert shown[0][1:] == ["80.00 ± 10.00ᵍ (3)", validation, "0.030", "10.7", "1,002", "900", "1.7"]


def test_how_a_checkpoint_was_chosen_and_why_a_run_ended_is_told():
    chosen = Selection(rule="best", on_test=True)
    runs = [ran("s4", "text", 0.9), failed(ran("s4", "text", 0.5, 1), "oom", "needed 9 GiB")]
    text = section("runs", page(runs, PUBLISHED, "mini"))
    assert "on the test set" not in text
    assert text.count("needed 9 GiB") == 1
    assert "on the test set" in section("runs", page([ran("s4", "text", 0.9, selection=chosen)], PUBLISHED, "mini"))
    assert "<h3>2 runs</h3>" in section("environment", page(runs, PUBLISHED, "mini"))


def test_an_input_is_shown_once_with_every_models_answer():
    inputs = [
        Example(label=1, predicted=1, probability=0.75, text="what is it"),
        Example(label=0, predicted=1, text="b"),
    ]
    other = [replace(inputs[0], predicted=0), inputs[1], replace(inputs[1], text="of other data")]
    runs = [ran("s4", "text", 0.9, examples=inputs), ran("lstm", "text", 0.6, examples=other)]
    shown = Strict(section("examples", page(runs, PUBLISHED, "mini"))).text
    assert shown.count("what is it") == 1
    assert "S4 ✓ 1 75 %" in shown
    assert "LSTM ✗ 0" in shown
    assert "of other data" not in shown


def test_kernels_are_shown_before_and_after_training():
    text = section("kernels", page(ZOO, PUBLISHED, "mini"))
    assert "layer 1, feature 5" in text
    assert text.count('<polygon class="before"') == text.count('<polygon class="after') == 1
    assert text.count("data:image/png") == 2
    assert 'id="kernels"' not in page([ran("s4", "text", 0.9)], PUBLISHED, "mini")


def test_benchmarks_are_drawn_beside_what_was_published():
    text = section("speed", page(ZOO, PUBLISHED, "mini", BENCHES))
    assert "Measured here on" in text
    assert '<polyline class="line c0" ' in text
    assert '<polyline class="line c0 dashed" ' in text
    assert ">4096<" in text
    assert 'id="speed"' not in page(ZOO, PUBLISHED, "mini")


def test_the_overview_is_over_tasks_that_most_models_share():
    both = [ran(m, t, 0.5 + i / 10) for i, m in enumerate(("s4", "lstm", "gru")) for t in ("listops", "image")]
    text = section("table", page([*both, ran("s4", "text", 0.9)], PUBLISHED, "mini"))
    assert "Means over ListOps and Image, of the models that have run them all." in text
    assert "different machines" not in text
    there = replace(both[0], hardware=replace(both[0].hardware, device="a GPU"))
    assert "different machines (a GPU; cpu)" in section("table", page([there, *both[1:]], PUBLISHED, "mini"))
    assert "Means over" not in page(both[:1], PUBLISHED, "mini")


def test_nothing_in_a_record_can_break_the_page():
    evil = "</script><script>alert(1)</script>\"'&<"
    config = {"a": evil, evil: 1}
    record = ran("s4", "listops", 0.9, title=evil, config=config, config_hash=config_hash(config), variant=[evil])
    record = replace(record, command=evil, recipe=evil, wandb="javascript:alert(1)", notes=[evil])
    text = page([record, failed(ran("x", "text", 0.5), "oom", evil)], PUBLISHED, "mini")
    assert "alert(1)" in Strict(text).text
    assert text.count("<script>") == 1
    assert 'href="javascript' not in text


@pytest.mark.parametrize("scale", ["paper", "mini"])
def test_without_runs_the_page_stands_and_says_what_to_run(scale):
    shown = Strict(page([], PUBLISHED, scale)).text
    assert f"make lra-all SCALE={scale}" in shown
    assert "86.82" in shown


def test_a_run_without_a_curve_or_measurements_does_no_harm():
    bare = {"curve": [], "steps_per_second": None, "peak_memory_mib": None, "total_seconds": None}
    begun = replace(failed(ran("lstm", "text", 0.5), "running", "begun"), **bare)
    Strict(
        page(
            [begun, ran("s4", "text", 0.9, **bare), ran("s4", "image", 0.1, curve=[Point(step=0, train_loss=1.0)])],
            PUBLISHED,
            "mini",
        )
    )


def test_the_page_of_200_runs_is_smaller_than_a_megabyte():
    many = [ran(stem, task, 0.5) for stem in list(PUBLISHED.models)[:34] for task in TASKS]
    assert len(many) >= 200
    assert len(page(many, PUBLISHED, "mini").encode()) < 1_000_000


def test_the_script_writes_the_page(tmp_path, monkeypatch, capsys):
    for record in ZOO:
        record.write(record.path(tmp_path / "runs"))
    monkeypatch.setattr(sys, "argv", ["report.py", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "r.html")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "report.py"), run_name="__main__")
    assert ended.value.code == 0
    assert f"scale mini, {len(ZOO)} runs" in capsys.readouterr().out
    assert (tmp_path / "r.html").read_text() == page(ZOO, PUBLISHED, "mini", BENCHES)


def browse(path: Path) -> tuple[str, str]:
    """The document as a browser builds it, and what it says on its console."""
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    quiet += " --disable-component-update --disable-sync --enable-logging=stderr --v=0 --dump-dom"
    home = path.parent
    command = [str(BROWSER), *quiet.split(), f"--user-data-dir={home / 'profile'}", f"file://{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(home)})
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")
def test_a_browser_finds_no_error(tmp_path):
    text = page(ZOO, PUBLISHED, "mini", BENCHES)
    assert all(f'id="{name}"' in text for name in ("kernels", "examples", "speed", "failures", "environment"))
    (tmp_path / "good.html").write_text(text)
    (tmp_path / "bad.html").write_text(text.replace("reveal();", "reveals();"))
    document, said = browse(tmp_path / "good.html")
    assert "Comparison</h2>" in document
    assert said == ""
    assert "reveals is not defined" in browse(tmp_path / "bad.html")[1]


def test_a_config_reads_as_overrides():
    assert list(flat({"a": {"b": 1, "c": None}, "d": [1, 2]})) == [("a.b", "1"), ("a.c", "null"), ("d", "[1, 2]")]
