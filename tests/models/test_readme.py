"""The page models/README.md: its walk-through works as written, and its table says of every model what it has to."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
import torch
from hydra.utils import instantiate

from helpers.compose import CONFIGS, names
from helpers.documented_files import write_files
from lra.config import overrides, tuned
from lra.paths import ROOT
from lra.task import TaskSpec
from lra.training.optim import param_groups

README = (ROOT / "models" / "README.md").read_text()
MODELS = names("model")
TABLE = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", README[: README.index("### Their settings")], re.M))
COMMANDS = re.findall(r"^\.venv/bin/python .*$", README[: README.index("### What a mixer promises")], re.M)


def write_example(folder: Path) -> None:
    assert write_files(README, folder) == ["models/mean_field.py", "configs/model/mean_field.yaml"]


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The example's model, from its files under tmp_path beside a copy of the configurations."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    write_example(tmp_path)
    spec = importlib.util.spec_from_file_location("models.mean_field", tmp_path / "models/mean_field.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "models.mean_field", module)
    with hydra.initialize_config_dir(str(tmp_path / "configs"), version_base="1.3"):
        cfg = hydra.compose("train", overrides=["model=mean_field", "task=listops", "scale=smoke"])
    torch.manual_seed(0)
    return instantiate(cfg.model, spec=TaskSpec("test", 20, 3, 11, ragged=True))


@pytest.mark.nightly
def test_the_commands_of_the_walk_through_succeed_in_a_copy_of_the_repository(tmp_path):
    for name in ("configs", "data", "lra", "models", "scripts", "tests", "results/published"):
        ignored = shutil.ignore_patterns("__pycache__", "prepared", "raw", "downloads")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    write_example(tmp_path)
    assert len(COMMANDS) == 3
    for command in COMMANDS:
        words = shlex.split(command.split("#")[0])[1:]
        if "scale=mini" in words:
            continue  # the same as the one before it, but minutes
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (record,) = (tmp_path / "results/runs").rglob("*.json")
    assert record.parts[-3:-1] == ("mean_field", "listops")


def test_the_training_commands_of_the_walk_through_are_understood():
    words = [shlex.split(command.split("#")[0]) for command in COMMANDS]
    trained = [w[2:] for w in words if w[1] == "scripts/train.py"]
    assert trained
    for first, *rest in trained:
        assert first == "model=mean_field"
        # of those that are there
        overrides.check_command_line(["model=transformer", *rest])


def test_the_example_learns(example):
    tokens = torch.randint(1, 11, (8, 20))
    mask = torch.arange(20) < torch.randint(5, 21, (8,))[:, None]
    y = torch.arange(8) % 3
    optimizer = torch.optim.Adam(example.parameters(), 3e-3)
    losses = []
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy(example(tokens, mask), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_the_example_keeps_the_padding_promise(example):
    net = example.encoder.double().eval()
    d_model = net.blocks[0].norm.norm.normalized_shape[0]
    x = torch.randn(2, 9, d_model, dtype=torch.float64)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    spoilt = torch.nn.functional.pad(x, (0, 0, 0, 3)).masked_fill(
        ~torch.nn.functional.pad(mask, (0, 3))[..., None], 9.0
    )
    y = net(spoilt, torch.nn.functional.pad(mask, (0, 3)))
    torch.testing.assert_close(y[:, :9][mask], net(x, mask)[mask])


def test_the_rate_of_the_yaml_reaches_the_optimiser(example):
    (group,) = [g for g in param_groups(example) if g.get("lr") == 2e-3]
    values = [p for name, p in example.named_parameters() if name.endswith("value.weight")]
    assert {id(p) for p in group["params"]} == {id(p) for p in values}


def test_commands_and_files_the_page_names_exist():
    for path in re.findall(r"`((?:lra|tests|results|configs|models)/[\w./]+\w)`", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("model", MODELS)
def test_the_table_says_of_every_model_what_it_costs_and_what_it_was_checked_against(model):
    wanted = f"models/README.md wants a row for {model}: | `{model}` | paper | cost | checked against | differs |"
    assert model in TABLE, wanted
    paper, cost, checked, differs = TABLE[model].split(" | ")
    assert re.search(r"arxiv\.org/abs/\d{4}\.\d{4,5}|the same|1997", paper)
    assert re.search(r"\bL\b|L²|as above", cost)
    assert differs
    text = (CONFIGS / "model" / f"{model}.yaml").read_text()
    (stem,) = set(re.findall(r"models\.(\w+)\.\w+", text)) or {model.removesuffix("_chunk")}
    tests = re.findall(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`", checked)
    assert tests
    for path, test in tests:
        source = (ROOT / (path or f"tests/models/test_{stem}.py")).read_text()
        assert f"def {test}(" in source, test


def test_the_table_has_no_row_for_a_model_that_is_not_there():
    assert set(TABLE) <= set(MODELS)
    assert "models/README.md" in (ROOT / "README.md").read_text()


def test_the_page_says_that_no_model_is_exempt_while_none_is():
    exempt = [p.stem for p in (ROOT / "models").glob("*.py") if re.search(r"^ +exempt = ", p.read_text(), re.M)]
    assert (exempt == []) == ("No model here needs one" in " ".join(README.split()))


def test_the_models_without_published_settings_are_those_that_the_page_names():
    sources = {model: tuned.sections(model)[0].values() for model in MODELS}
    unpublished = {m for m, said in sources.items() if all(s.startswith(tuned.UNPUBLISHED) for s in said)}
    # the families' own recipes are theirs; a form in chunks goes with its model
    unpublished -= {"s4", "transformer", "s4d", "megalodon_chunk"}
    rule = re.search(r"no settings published for LRA that we know of: (.*?)\.", README, re.S)[1]
    assert set(re.findall(r"`(\w+)`", rule)) == unpublished
    assert "`s4d` takes S4's recipes" in README


def test_a_model_is_a_file_that_can_be_read_at_a_sitting():
    lines = {p.name: len(p.read_text().splitlines()) for p in (ROOT / "models").glob("*.py")}
    assert {name: n for name, n in lines.items() if n > 255} == {}
