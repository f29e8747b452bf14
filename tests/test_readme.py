"""The commands of the README are valid, its numbers match the results, its example works, its picture is up to date."""

import re
import shlex
import subprocess
import sys

import pytest
import torch

from helpers.compose import compose
from helpers.made_up_runs import PUBLISHED
from helpers.report_runs import ZOO
from lra.config.compose import check_command_line
from lra.paths import ROOT
from lra.records.published import load_published
from lra.records.store import load, load_all
from lra.report import charts, readme
from lra.tables.aggregate import aggregate
from lra.tables.agreement import AVERAGE, agreements

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.S)
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
    if line.startswith(("make", ".venv/bin/python"))
]


def test_readme_is_short():
    assert len(README.splitlines()) <= 150
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_commands_name_targets(command):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    words = [word for word in shlex.split(command)[1:] if "=" not in word]
    assert words
    assert set(words) <= targets


@pytest.mark.parametrize("command", [c for c in COMMANDS if "lra-all" in c])
def test_grid_commands_can_be_planned(command, tmp_path):
    values = dict(word.split("=") for word in shlex.split(command)[2:])
    options = [f"--{name.lower()}={value}" for name, value in values.items()]
    plan = [sys.executable, str(ROOT / "scripts/lra_all.py"), *options, "--dry-run", f"--results={tmp_path}"]
    done = subprocess.run(plan, capture_output=True, text=True, check=True)
    assert "scripts/train.py" in done.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if "scripts/train.py" in c])
def test_training_commands_are_valid(command):
    arguments = shlex.split(command)[2:]
    check_command_line(arguments)
    assert compose(*arguments).task.name


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!http)[^)]+)\)", README))
def test_links_exist(path):
    assert (ROOT / path).exists()


def test_paper_scale_numbers_match_records():
    s4 = load(ROOT / "results/runs/paper/s4/listops/0-72ea66a5.json")
    assert f"**{100 * (s4.test_score or 0):.2f} %**" in README
    assert {"trainer.precision=bf16-mixed", "training.epochs=3"} <= set(s4.variant)
    other = load(ROOT / "results/runs/paper/transformer/listops/0-4534e398.json")
    assert (other.status, other.curve[-1].val_score) == ("diverged", pytest.approx(0.327, abs=5e-4))
    assert f"step {other.steps_done}" in README


def test_mini_table_numbers_match_results():
    tables = "".join(path.read_text() for path in (ROOT / "results/tables").glob("mini*.md")).replace("**", "")
    section = README[README.index("**Scale mini**") : README.index("**Scale paper**")]
    numbers = re.findall(r"\d\d\.\d\d(?: ± \d\.\d\d)?", section)
    assert len(numbers) > 10
    assert [n for n in numbers if n not in tables] == []


def test_records_hold_no_licensed_examples():
    records = [load(path) for path in (ROOT / "results/runs").rglob("*.json")]
    assert len(records) > 100
    assert [r.command for r in records if r.task in ("text", "retrieval", "image") and r.examples] == []


def test_layer_example_works():
    source = next(block for language, block in BLOCKS if language == "python")
    found: dict = {}
    exec(source, found)
    assert found["y"].shape == (8, 64)
    # the two ways agree: the first positions, by a convolution and by steps
    layer, x = found["layer"], torch.randn(8, 5, 64)
    state, steps = layer.default_state(8), []
    for column in x.unbind(1):
        y, state = layer.step(column, state)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps, 1), layer(x), atol=1e-4, rtol=1e-3)


def test_table_and_picture_are_those_of_the_records():
    records = load_all(ROOT / "results/runs")
    results = aggregate(records, load_published(ROOT / "results/published"), "mini")
    hint = "make report ARGS='--readme --scale mini'"
    assert readme.table(results) in README, hint
    figure = charts.overview(results.main_rows, results.measured_columns, legend=True)
    labels = re.findall(">([^<]+)</text>", charts.themed(figure.picture, "light"))
    for theme in readme.THEMES:
        picture = ROOT / readme.PICTURE.format(theme=theme)
        assert str(picture.relative_to(ROOT)) in README
        assert re.findall(">([^<]+)</text>", picture.read_text()) == labels, hint


def test_sentence_on_trust_is_that_of_the_table():
    found = agreements(load_all(ROOT / "results/runs"), load_published(ROOT / "results/published"), "mini")
    average = {a.group: a for a in found if a.task == AVERAGE}
    assert f"{average.pop('all').spearman:.2f}" in README
    assert len(average) == 2
    assert all(a.interval[0] < 0 < a.interval[1] for a in average.values())


def test_table_is_put_between_the_markers():
    results = aggregate(ZOO, PUBLISHED, "mini")
    text = readme.with_table(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n", results)
    assert text == f"before\n{readme.BEGIN}\n{readme.table(results)}\n{readme.END}\nafter\n"
    assert "| S4 | 81.00 ± 1.00 (3) |" in text
    assert readme.with_table(text, results) == text
    with pytest.raises(ValueError, match="has no lines"):
        readme.with_table("no markers", results)
