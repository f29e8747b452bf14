"""The page in a real browser, at the widths of a desk and a phone: sorts, filters, names lines, without an error."""

import pytest

from helpers.browser import CHROMIUM, Browser
from helpers.made_up_runs import PUBLISHED
from helpers.report_runs import ZOO
from lra.paths import ROOT
from lra.records.benchmark import load_bench
from lra.report.page import page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
BENCHES = [bench for bench in load_bench(ROOT / "results" / "bench") if bench.table == "S4 Table 3"]
MODELS = "[...document.querySelectorAll('#comparison tbody')].filter(b => !b.hidden).map(b => b.dataset.model)"
CURVES = "document.querySelector('#listops .curves .view')"
TOOLTIP = "document.querySelector('#vg-tooltip-element.visible')?.textContent"


@pytest.fixture(scope="module")
def browser():
    with Browser() as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(ZOO, PUBLISHED, "mini", BENCHES), encoding="utf-8")
    return path


@pytest.fixture
def desk(browser, file):
    browser.messages.clear()
    browser.open(file)
    yield browser
    assert browser.messages == []


def click(browser: Browser, element: str) -> None:
    at = browser.place(element)
    browser.click(at["left"] + at["width"] / 2, at["top"] + at["height"] / 2)


def heading(name: str) -> str:
    return f"[...document.querySelectorAll('#comparison th button')].find(b => b.textContent === '{name}')"


def test_page_is_below_two_megabytes(file):
    assert file.stat().st_size < 2_000_000


@pytest.mark.parametrize("width", [1400, 390])
def test_every_chart_becomes_interactive_without_an_error(browser, file, width):
    browser.messages.clear()
    browser.open(file, width=width)
    browser.run("document.querySelectorAll('details').forEach(d => { d.removeAttribute('name'); d.open = true; })")
    n = browser.run("document.querySelectorAll('.chart').length")
    assert n > 15
    for i in range(n):
        chart = f"document.querySelectorAll('.chart')[{i}]"
        if browser.run(f"{chart}.querySelector('.view').clientWidth > 0"):
            browser.place(chart)
            browser.wait(f"{chart}.classList.contains('live')")
            assert browser.run(f"{chart}.querySelector('svg').getBoundingClientRect().width") > 200
    # nothing is wider than the window but what scrolls in its own box
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.messages == []


def test_errors_would_be_noticed(browser, file, tmp_path):
    browser.messages.clear()
    bad = tmp_path / "bad.html"
    bad.write_text(file.read_text().replace("reveal();\n", "reveals();\n"))
    browser.open(bad)
    assert any("reveals is not defined" in message for message in browser.messages)


def test_click_on_a_heading_sorts_in_both_directions(desk):
    assert desk.run(MODELS)[0] == "s4"
    click(desk, heading("Image"))
    assert desk.run(MODELS)[:2] == ["s4", "transformer"]
    click(desk, heading("Image"))
    # models without a result come last in either order
    assert desk.run(MODELS)[:2] == ["transformer", "s4"]
    assert desk.run("document.querySelector('#comparison th[aria-sort]').textContent") == "Image"
    click(desk, heading("Model"))
    names = desk.run("[...document.querySelectorAll('#comparison tbody .name')].map(b => b.textContent)")
    assert names == sorted(names, key=str.lower)


def test_published_rows_are_sorted_by_what_they_show(browser, file, tmp_path):
    path = tmp_path / "paper.html"
    path.write_text(page([], PUBLISHED, "paper"), encoding="utf-8")
    browser.open(path)
    click(browser, heading("Image"))
    shown = browser.run("[...document.querySelectorAll('#comparison tbody')].map(b => b.rows[0].cells[4].textContent)")
    numbers = [float(text.rstrip("?")) for text in shown if text != "✗"]
    assert len(numbers) > 30
    assert numbers == sorted(numbers, reverse=True)


def test_family_filters_rows(desk):
    desk.run("family.value = 'recurrent'; family.dispatchEvent(new Event('change'))")
    assert desk.run(MODELS) == ["lstm"]
    desk.run("family.value = ''; family.dispatchEvent(new Event('change'))")
    assert len(desk.run(MODELS)) == 5


def test_mouse_names_a_line_with_its_value_and_a_click_highlights_the_model(desk):
    desk.place(CURVES)
    desk.wait(f"{CURVES}.closest('.chart').classList.contains('live')")
    desk.place(CURVES)
    # the end of the highest line, which is one of S4
    paths = f"[...{CURVES}.querySelectorAll('.mark-line path')].map(p => p.getBoundingClientRect())"
    x, y = desk.run(
        f"(() => {{ const r = {paths}.sort((a, b) => a.top - b.top)[0]; return [r.right - 2, r.top + 2]; }})()"
    )
    desk.mouse("mouseMoved", x, y)
    shown = desk.wait(TOOLTIP)
    assert shown.startswith("S4, ")
    assert "Accuracy8" in shown
    assert "training steps100" in shown
    desk.click(x, y)
    assert desk.run("[...document.querySelectorAll('#comparison tbody.picked')].map(b => b.dataset.model)") == ["s4"]
    assert desk.run("document.querySelectorAll('#comparison tbody.dim').length") == 4
    assert desk.run("views.map(v => v.signal('picked').join())[0]") == "s4"
    faint = f"[...{CURVES}.querySelectorAll('.mark-line path')].filter(p => p.getAttribute('opacity') < 0.2).length"
    assert desk.wait(faint) == 2
    # a chart that is drawn later knows of it, and a second click ends it
    other = "document.querySelector('#pathx .chart')"
    desk.place(other)
    desk.wait(f"{other}.classList.contains('live')")
    assert desk.run("views.every(v => v.signal('picked').join() === 's4')")
    click(desk, "document.querySelector('#comparison tbody[data-model=s4] .name')")
    assert desk.run("views.every(v => v.signal('picked').length === 0)")


def test_family_of_the_legend_is_highlighted(desk):
    click(desk, "document.querySelector('.legend [data-pick=\"family:efficient attention\"]')")
    assert desk.run("[...picked]") == ["performer"]
    assert desk.run("picker.value") == "family:efficient attention"


def test_link_of_a_best_model_opens_its_run(desk):
    click(desk, "document.querySelectorAll('#best .score')[4]")
    run = "document.getElementById(location.hash.slice(1))"
    assert desk.wait(f"{run}.getBoundingClientRect().height > 50")
    assert 0 <= desk.run(f"{run}.getBoundingClientRect().top") < 300
    assert "accuracy 82.00 % (820 of 1000)" in desk.run(f"{run}.textContent")
    assert desk.run(f"{run}.closest('details').querySelector('summary').textContent").startswith("Pathfinder")


def test_csv_has_the_rows_shown(desk):
    rows = desk.run("family.value = 'state space', filter(), shownRows(true)")
    assert [row[0] for row in rows] == ["Model", "Commonest label", "S4"]
    assert rows[2][1:3] == ["81.0000", "81.0000"]


def test_phone_keeps_the_model_in_view_and_reaches_all_tasks(browser, file):
    browser.open(file, width=390, height=844)
    browser.place("document.querySelector('#comparison')")
    box = "document.querySelector('#comparison').parentElement"
    browser.run(f"{box}.scrollLeft = 10000")
    first = browser.run("document.querySelector('#comparison tbody th').getBoundingClientRect().left")
    assert 0 <= first < 40
    last = browser.run("document.querySelector('#comparison thead th:nth-child(7)').getBoundingClientRect().right")
    assert last <= 390


def test_page_without_scripts_has_static_charts(browser, file):
    browser.open(file, scripts=False)
    sizes = browser.run("[...document.querySelectorAll('#best, .overview svg, #listops svg')].map(s => s.clientHeight)")
    assert len(sizes) == 5
    assert min(sizes) > 50
    assert browser.run("[...document.querySelectorAll('.tool')].every(e => e.offsetParent === null)")
    assert browser.run("document.querySelectorAll('.live').length") == 0
