"""The commands of the README are valid, its numbers match the results, and its example baseline works."""

import re
import shlex
import subprocess
import sys

import pytest
import torch
from hydra.utils import instantiate

from helpers.compose import compose
from lra.config.compose import check_command_line
from lra.paths import ROOT
from lra.records.store import load
from lra.task import TaskSpec

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


def test_example_baseline_works(tmp_path, monkeypatch):
    source = next(block for language, block in BLOCKS if language == "python")
    settings = next(block for language, block in BLOCKS if language == "yaml")
    (tmp_path / "running_mean.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    assert settings.startswith("# configs/model/running_mean.yaml")
    base = compose("task=listops", "model=_transformer", "scale=smoke")
    mixer = {"_target_": "running_mean.RunningMean", "_partial_": True}
    base.model = {**base.model, "pool": "mean", "mixer": mixer}
    assert "mixer: {_target_: models.running_mean.RunningMean, _partial_: true}" in settings
    net = instantiate(base.model, spec=TaskSpec("t", 20, 3, 5, ragged=True)).double().eval()
    x, mask = torch.randint(1, 5, (2, 12)), torch.arange(12) < torch.tensor([12, 7])[:, None]
    scores = net(x, mask)
    longer = torch.cat([x, torch.full((2, 5), 4)], 1)
    torch.testing.assert_close(net(longer, torch.nn.functional.pad(mask, (0, 5))), scores)
