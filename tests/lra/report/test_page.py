"""The report page: self-contained, well-formed for any record, complete about failures, without browser errors."""

import html.parser
import re
import runpy
import sys

import pytest
from markupsafe import Markup

from helpers import made_up_runs
from helpers.made_up_runs import PUBLISHED
from helpers.records import replace
from helpers.report_runs import ZOO, failed, forecast, ran
from lra.paths import ROOT
from lra.records.benchmark import load_bench
from lra.records.published import TASKS
from lra.records.record import Example, Point, Record, Selection, config_hash
from lra.report import charts
from lra.report.page import flat, page

BENCHES = load_bench(ROOT / "results" / "bench")
VOID = {"meta", "link", "img", "input"}


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Titles of the charts, which are not drawn here; test_charts.py and test_browser.py draw them."""
    titles: list[str] = []

    def figure(title: str, note: str, chart: object, **options: object) -> charts.Figure:
        titles.append(title)
        return charts.Figure(title, note, "{}", Markup("<svg></svg>"))

    monkeypatch.setattr(charts, "figure", figure)
    monkeypatch.setattr(charts, "bundle", lambda: "")
    return titles


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
        self.text += data if self.open and self.open[-1] not in ("script", "style") else ""


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
    assert not re.search(r"@import|url\(|<script[^>]* src|http:", text)


def test_order_of_records_does_not_matter():
    assert mini(*ZOO) == mini(*reversed(ZOO))


def test_every_cell_and_failure_is_shown():
    text = mini(*ZOO)
    shown = Strict(text).text
    assert "81.00 ± 1.00ᵍ (3)" in shown
    assert "diverged after 100 of 100 steps: loss became NaN at step 812" in text
    assert "did not learn, accuracy 10.00; always giving the commonest label gives 10.00" in text
    assert "26/27" in shown
    assert all(record.config_hash[:12] in shown for record in ZOO)


def test_chart_values_are_those_of_the_records():
    def values(text: str) -> list[list[str]]:
        rows = re.findall("<tr data-model=.*?</tr>", text, re.S)
        return [[re.sub("<.*?>", "", cell) for cell in re.findall("<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows]

    seeds = [ran("s4", "text", 0.8, 0), ran("s4", "text", 0.9, 1), ran("s4", "text", 0.7, 2)]
    shown = values(section("text", mini(ran("lstm", "text", 0.6), *seeds)))
    assert {row[0] for row in shown} == {"S4", "LSTM"}
    # test and validation accuracy, last training loss, parameters
    validation = f"{100 * sum(r.val_score for r in seeds) / 3:.2f}"
    assert next(row for row in shown if row[0] == "S4")[1:] == ["80.00 ± 10.00ᵍ (3)", validation, "0.030", "1,002"]


def test_speed_of_runs_is_only_in_their_details():
    text = mini(ran("s4", "text", 0.9, steps_per_second=123.25, peak_memory_mib=4321.0), ran("lstm", "text", 0.6))
    assert text.count("123") == section("runs", text).count("123") == 1
    assert text.count("4,321") == section("runs", text).count("4,321") == 1


def test_best_model_of_a_task_is_named_with_its_run():
    text = mini(*ZOO)
    best = section("best", text)
    assert [re.sub("<.*?>", "", name) for name in re.findall('<button class="name".*?</button>', best)] == ["S4"] * 6
    links = re.findall('class="score" href="#(run-.*?)"', best)
    assert len(set(links)) == 6
    assert all(f'<div id="{link}">' in section("runs", text) for link in links)


def test_trust_comes_before_the_table():
    models = list(PUBLISHED.models)[:12]
    runs = [ran(stem, task, 0.3 + i / 20) for i, stem in enumerate(models) for task in TASKS]
    text = section("table", mini(*runs))
    assert text.index("How far the ranking can be trusted") < text.index('<table id="comparison">')
    assert "How far the ranking" not in mini(*runs[:6])


def test_variants_are_not_among_the_models():
    text = mini(ran("s4", "text", 0.9), ran("s4", "text", 0.95, variant=["model.d_model=128"]))
    assert "model.d_model=128" not in section("table", text)
    assert "model.d_model=128" in section("variants", text)
    assert 'id="variants"' not in mini(ran("s4", "text", 0.9))


def test_models_with_an_average_come_first_best_on_top():
    runs = [ran(model, task, score) for model, score in (("lstm", 0.3), ("s4", 0.9), ("gru", 0.6)) for task in TASKS]
    found = re.findall('<tbody data-model="(.*?)"', mini(ran("transformer", "text", 0.99), *runs))
    assert found == ["s4", "gru", "lstm", "transformer"]
    published = re.findall('<tbody data-model="(.*?)"', page([], PUBLISHED, "paper"))
    averages = [PUBLISHED.row_of(model).six_task_average for model in published]
    assert averages == sorted(averages, reverse=True)


def test_tasks_with_another_metric_have_tables_and_charts(drawn):
    runs = [forecast("s4", 0.4), forecast("lstm", 0.2), forecast("gru", 1.5), ran("s4", "text", 0.9, scale="paper")]
    text = page(runs, PUBLISHED, "paper")
    others = section("others", text)
    assert "etth1" not in section("table", text)
    assert "Table 13, forecasts of one column: test MSE / MAE" in others
    assert "0.400" in others
    assert drawn.count("MSE") == 1
    assert "repeating the last value" in others
    assert "MSE 0.200, MAE" in section("runs", text)
    # worse than the trivial forecast
    assert "did not learn, MSE 1.500" in section("failures", text)
    assert 'id="others"' not in mini(*ZOO)


def test_table_headers_have_a_scope():
    text = mini(*ZOO)
    assert len(re.findall("<th[ >]", text)) == len(re.findall('<th scope="(?:col|row)"', text)) > 50


def test_signs_are_explained_above_the_table_and_in_cells():
    text = section("table", mini(*ZOO))
    assert text.index("data generated here by the benchmark") < text.index('<table id="comparison">')
    assert re.search('<td class="failed" title="[^"]*ran and stayed at chance', text)


def test_checkpoint_rule_and_failure_are_shown():
    text = mini(ran("s4", "text", 0.9), failed(ran("s4", "text", 0.5, 1), "oom", "needed 9 GiB"))
    runs = section("runs", text)
    assert "on the test set" not in runs
    assert runs.count("needed 9 GiB") == 1
    assert "2 runs" in section("machines", text)
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
    assert "whose record keeps its answers" in shown


def test_kernels_are_shown_before_and_after(drawn):
    text = section("kernels", mini(*ZOO))
    assert text.count('<figure class="chart">') == 1
    assert text.count("data:image/png") == 2
    assert text.count("<details") == 1
    assert 'id="kernels"' not in mini(ran("s4", "text", 0.9))


def test_each_benchmark_file_is_a_card_of_one_machine():
    text = section("speed", page(ZOO, PUBLISHED, "mini", BENCHES))
    cards = text.split('<div class="card">')[1:]
    assert len(cards) == len(BENCHES)
    assert all(card.count("Measured on") == 1 for card in cards)
    elsewhere = replace(BENCHES[0], hardware=replace(BENCHES[0].hardware, device="another machine"))
    both = section("speed", page(ZOO, PUBLISHED, "mini", [BENCHES[0], elsewhere])).split('<div class="card">')[1:]
    assert ["another machine" in card for card in both] == [False, True]
    assert 'id="speed"' not in mini(*ZOO)


def test_machines_versions_and_commits_are_listed_once():
    text = section("machines", mini(*ZOO))
    assert text.count(f"{len(ZOO)} runs") == 4


def test_markup_in_records_is_escaped():
    evil = "</script><script>alert(1)</script>\"'&<"
    config = {"a": evil, evil: 1}
    record = ran("s4", "listops", 0.9, title=evil, config=config, config_hash=config_hash(config), variant=[evil])
    record = replace(record, command=evil, recipe=evil, wandb="javascript:alert(1)", notes=[evil])
    text = mini(record, failed(ran("x", "text", 0.5), "oom", evil))
    assert "alert(1)" in Strict(text).text
    assert len(re.findall("<script", text)) == len(re.findall("</script>", text))
    assert "<script>alert" not in text
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


def test_script_writes_the_page(tmp_path, monkeypatch, capsys):
    for record in ZOO:
        record.write(record.path(tmp_path / "runs"))
    monkeypatch.setattr(sys, "argv", ["report.py", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "r.html")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "report.py"), run_name="__main__")
    assert ended.value.code == 0
    assert f"scale mini, {len(ZOO)} runs" in capsys.readouterr().out
    assert (tmp_path / "r.html").read_text() == page(ZOO, PUBLISHED, "mini", BENCHES)


def test_config_reads_as_overrides():
    assert list(flat({"a": {"b": 1, "c": None}, "d": [1, 2]})) == [("a.b", "1"), ("a.c", "null"), ("d", "[1, 2]")]


def test_samples_of_a_model_are_shown():
    totals = {"nats": 70.0, "tokens": 100, "means": 7.0, "squares": 5.0, "examples": 10}
    data = replace(ZOO[0].data, kind="subset", fingerprint="texts", trivial=20.0)
    samples = [Example(text="the <b>dog</b> waits"), Example(text="a cat")]
    fields = {"objective": "language", "val_score": 2.1, "test_score": 2.0137527, "test_totals": totals, "data": data}
    run = made_up_runs.ran("s4", "wikitext2", None, scale="mini", examples=samples, **fields)
    text = page([*ZOO, run], PUBLISHED, "mini")
    section = text.partition('id="samples"')[2].partition("</section>")[0]
    assert "the &lt;b&gt;dog&lt;/b&gt; waits" in section
    assert "perplexity 2.01" in section
    assert 'id="samples"' not in page(ZOO, PUBLISHED, "mini")
