"""The report page: self-contained, well-formed for any record, complete about failures, without browser errors."""

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

from helpers import made_up_runs
from helpers.made_up_runs import PUBLISHED
from helpers.records import replace
from lra.paths import ROOT
from lra.records.benchmark import load_bench
from lra.records.pictures import grey, signed
from lra.records.published import TASKS
from lra.records.record import Data, Example, Kernel, Point, Record, Selection, config_hash
from lra.report.figures import kernel_chart
from lra.report.page import flat, page

BENCHES = load_bench(ROOT / "results" / "bench")
DOTS = np.array([[0, 255]], np.uint8)
VOID = {"meta", "link", "img"}
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def ran(model: str, task: str, accuracy: float, seed: int = 0, **changes: object) -> Record:
    config = {"seed": seed, "model": {"d_model": 64}}
    fields = {
        "scale": "mini",
        "title": model,
        "config": config,
        "config_hash": config_hash(config),
        "data": Data(kind="generated", fingerprint=task, counts={"train": 100, "val": 10, "test": 1000}, chance=0.1),
        "parameters": 1000 + len(model),
        "steps_per_second": 10 + accuracy,
        "peak_memory_mib": 500.0,
        "total_seconds": 60.0,
        "curve": [Point(step=s, train_loss=3 / s, val_accuracy=accuracy * s / 100) for s in range(5, 101, 5)],
    }
    return made_up_runs.ran(model, task, round(1000 * accuracy), seed=seed, **{**fields, **changes})


def kernel(**changes: object) -> Kernel:
    line = [0.5, -1.0, 0.25, 0.0]
    values = {"before": [line, line], "after": [line, [1.0, 1.0, 1.0, 1.0]]}
    return Kernel(**{"layer": 0, "feature": 5, "length": 100, "starts": [0, 1, 2, 9], **values, **changes})


def failed(record: Record, status: str, reason: str) -> Record:
    return replace(record, status=status, reason=reason, test_accuracy=None, test_correct=None, n_test=None)


EXAMPLES = [Example(label=1, predicted=0, text="<b>"), Example(label=1, predicted=1, picture=grey(DOTS))]
KERNELS = [kernel(), kernel(layer=2, picture_before=signed(DOTS - 100.0), picture_after=signed(DOTS * 1.0))]
ZOO = [
    *(ran("s4", task, 0.8 + seed / 100, seed) for task in TASKS for seed in range(3)),
    *(ran("transformer", task, 0.5) for task in TASKS),
    ran("lstm", "listops", 0.1),
    failed(ran("performer", "image", 0.1), "diverged", "loss became NaN at step 812"),
    ran("newcomer", "text", 0.6, examples=EXAMPLES, kernels=KERNELS),
]


class Strict(html.parser.HTMLParser):
    """Asserts that tags are closed in order, ids are unique, links have targets, and nothing is fetched."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: set[str] = set()
        self.text = ""
        self.feed(text)
        self.text = " ".join(self.text.split())
        assert not self.open
        assert len(self.ids) == len(set(self.ids))
        assert self.targets <= set(self.ids)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.handle_startendtag(tag, attrs)
        self.open += [tag] if tag not in VOID else []

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


def mini(*records: Record) -> str:
    return page(records, PUBLISHED, "mini")


def section(name: str, text: str) -> str:
    return text[text.index(f'<section id="{name}">') :].split("</section>")[0] + "</section>"


def test_page_is_well_formed_and_fetches_nothing():
    text = mini(*ZOO)
    Strict(text)
    assert text.startswith("<!doctype html>")
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"@import|url\(|<script src|http:", text)


def test_order_of_records_does_not_matter():
    assert mini(*ZOO) == mini(*reversed(ZOO))


def test_every_cell_and_failure_is_shown():
    shown = Strict(mini(*ZOO)).text
    assert "81.00 ± 1.00ᵍ (3)" in shown
    assert "diverged after 100 of 100 steps: loss became NaN at step 812" in shown
    assert "stayed at chance, 10.00; the commonest label alone gives 10.00" in shown
    assert "26/27" in shown
    assert all(record.config_hash[:12] in shown for record in ZOO)


def test_chart_values_are_those_of_the_records():
    def values(text: str) -> list[list[str]]:
        rows = re.findall("<tr>(<td><span.*?)</tr>", text)
        return [[re.sub("<.*?>", "", cell) for cell in re.findall("<td>(.*?)</td>", row)] for row in rows]

    slow = {"steps_per_second": 2.0, "peak_memory_mib": 900.0, "total_seconds": 180.0}
    seeds = [ran("s4", "text", 0.8, 0, **slow), ran("s4", "text", 0.9, 1), ran("s4", "text", 0.7, 2)]
    shown = values(section("text", mini(ran("lstm", "text", 0.6), *seeds)))
    assert [row[0] for row in shown] == ["S4", "LSTM"]
    # test and validation accuracy, last training loss, median speed, parameters, largest memory, mean time
    validation = f"{100 * sum(r.val_accuracy for r in seeds) / 3:.2f}"
    assert shown[0][1:] == ["80.00 ± 10.00ᵍ (3)", validation, "0.030", "10.7", "1,002", "900", "1.7"]


def test_checkpoint_rule_and_failure_are_shown():
    text = mini(ran("s4", "text", 0.9), failed(ran("s4", "text", 0.5, 1), "oom", "needed 9 GiB"))
    runs = section("runs", text)
    assert "on the test set" not in runs
    assert runs.count("needed 9 GiB") == 1
    assert "<h3>2 runs</h3>" in section("environment", text)
    chosen = ran("s4", "text", 0.9, selection=Selection(rule="best", on_test=True))
    assert "on the test set" in section("runs", mini(chosen))


def test_example_is_shown_once_with_all_answers():
    first = Example(label=1, predicted=1, probability=0.75, text="what is it")
    second = Example(label=0, predicted=1, text="b")
    other = [replace(first, predicted=0), second, replace(second, text="of other data")]
    runs = [ran("s4", "text", 0.9, examples=[first, second]), ran("lstm", "text", 0.6, examples=other)]
    shown = Strict(section("examples", mini(*runs))).text
    assert shown.count("what is it") == 1
    assert "S4 ✓ 1 75 %" in shown
    assert "LSTM ✗ 0" in shown
    assert "of other data" not in shown


def test_kernels_are_shown_before_and_after():
    text = section("kernels", mini(*ZOO))
    assert "layer 1, feature 5" in text
    assert text.count('<polygon class="before"') == text.count('<polygon class="after') == 1
    assert text.count("data:image/png") == 2
    assert 'id="kernels"' not in mini(ran("s4", "text", 0.9))


def test_kernels_of_a_grey_model_are_not_grey_twice():
    chart = kernel_chart(kernel(), "other", "layer 1")
    assert '<polygon class="before"' in chart
    assert '<polygon class="after c0"' in chart


def test_benchmark_charts_have_published_lines():
    text = section("speed", page(ZOO, PUBLISHED, "mini", BENCHES))
    assert all(
        words in text for words in ("Measured here on", '<polyline class="line c0" ', "line c0 dashed", ">4096<")
    )
    assert 'id="speed"' not in mini(*ZOO)


def test_overview_is_over_tasks_most_models_share():
    both = [ran(m, t, 0.5 + i / 10) for i, m in enumerate(("s4", "lstm", "gru")) for t in ("listops", "image")]
    text = section("table", mini(*both, ran("s4", "text", 0.9)))
    assert "Means over ListOps and Image, of the models that have run them all." in text
    assert "different machines" not in text
    on_gpu = replace(both[0], hardware=replace(both[0].hardware, device="a GPU"))
    assert "different machines (a GPU; cpu)" in section("table", mini(on_gpu, *both[1:]))
    assert "Means over" not in mini(both[0])


def test_markup_in_records_is_escaped():
    evil = "</script><script>alert(1)</script>\"'&<"
    config = {"a": evil, evil: 1}
    record = ran("s4", "listops", 0.9, title=evil, config=config, config_hash=config_hash(config), variant=[evil])
    record = replace(record, command=evil, recipe=evil, wandb="javascript:alert(1)", notes=[evil])
    text = mini(record, failed(ran("x", "text", 0.5), "oom", evil))
    assert "alert(1)" in Strict(text).text
    assert text.count("<script>") == 1
    assert 'href="javascript' not in text


@pytest.mark.parametrize("scale", ["paper", "mini"])
def test_page_without_runs_names_the_command(scale):
    shown = Strict(page([], PUBLISHED, scale)).text
    assert f"make lra-all SCALE={scale}" in shown
    assert "86.82" in shown


def test_runs_without_measurements_are_shown():
    bare = {"curve": [], "steps_per_second": None, "peak_memory_mib": None, "total_seconds": None}
    begun = replace(failed(ran("lstm", "text", 0.5), "running", "begun"), **bare)
    one_point = ran("s4", "image", 0.1, curve=[Point(step=0, train_loss=1.0)])
    Strict(mini(begun, ran("s4", "text", 0.9, **bare), one_point))


def test_page_of_200_runs_is_below_a_megabyte():
    many = [ran(stem, task, 0.5) for stem in list(PUBLISHED.models)[:34] for task in TASKS]
    assert len(many) >= 200
    assert len(mini(*many).encode()) < 1_000_000


def test_script_writes_the_page(tmp_path, monkeypatch, capsys):
    for record in ZOO:
        record.write(record.path(tmp_path / "runs"))
    monkeypatch.setattr(sys, "argv", ["report.py", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "r.html")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "report.py"), run_name="__main__")
    assert ended.value.code == 0
    assert f"scale mini, {len(ZOO)} runs" in capsys.readouterr().out
    assert (tmp_path / "r.html").read_text() == page(ZOO, PUBLISHED, "mini", BENCHES)


def browse(path: Path) -> tuple[str, str]:
    """The document as a browser builds it, and its console messages."""
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options += " --disable-component-update --disable-sync --enable-logging=stderr --v=0 --dump-dom"
    home = path.parent
    command = [str(BROWSER), *options.split(), f"--user-data-dir={home / 'profile'}", f"file://{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(home)})
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")
def test_browser_reports_no_error(tmp_path):
    text = page(ZOO, PUBLISHED, "mini", BENCHES)
    assert all(f'id="{name}"' in text for name in ("kernels", "examples", "speed", "failures", "environment"))
    (tmp_path / "good.html").write_text(text)
    (tmp_path / "bad.html").write_text(text.replace("reveal();", "reveals();"))
    document, messages = browse(tmp_path / "good.html")
    assert "Comparison</h2>" in document
    assert messages == ""
    assert "reveals is not defined" in browse(tmp_path / "bad.html")[1]


def test_config_reads_as_overrides():
    assert list(flat({"a": {"b": 1, "c": None}, "d": [1, 2]})) == [("a.b", "1"), ("a.c", "null"), ("d", "[1, 2]")]
