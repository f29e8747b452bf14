"""The page models/README.md: its example works as written, and its table describes every model."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

from helpers.compose import CONFIGS, limited, names
from helpers.documented_files import write_files
from lra.config import compose
from lra.paths import ROOT
from lra.records.published import TASKS as LRA
from lra.task import TaskSpec
from lra.training.optim import param_groups

README = (ROOT / "models" / "README.md").read_text()
MODELS = names("model")
TABLE = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", README[: README.index("### Their settings")], re.M))
COMMANDS = re.findall(r"^\.venv/bin/python .*$", README[: README.index("### What a mixer must do")], re.M)


def write_example(folder: Path) -> None:
    assert write_files(README, folder) == ["models/mean_field.py", "configs/model/mean_field.yaml"]


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The example's model, with its files in a copy of the configurations."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    write_example(tmp_path)
    spec = importlib.util.spec_from_file_location("models.mean_field", tmp_path / "models/mean_field.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "models.mean_field", module)
    monkeypatch.setattr("lra.paths.CONFIGS", tmp_path / "configs")
    cfg = compose.composed(["model=mean_field", "task=listops", "scale=smoke"])["cfg"]
    torch.manual_seed(0)
    return instantiate(cfg.model, spec=TaskSpec("test", 20, 3, 11, ragged=True))


@pytest.mark.nightly
def test_commands_succeed_in_a_copy(tmp_path):
    for name in ("configs", "data", "lra", "models", "scripts", "tests", "results/published"):
        ignored = shutil.ignore_patterns("__pycache__", "prepared", "raw", "downloads")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    write_example(tmp_path)
    assert len(COMMANDS) == 3
    for command in COMMANDS:
        words = shlex.split(command.split("#")[0])[1:]
        if "scale=mini" not in words:  # the same as scale=smoke, but takes minutes
            done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (record,) = (tmp_path / "results/runs").rglob("*.json")
    assert record.parts[-3:-1] == ("mean_field", "listops")


def test_training_commands_are_valid():
    words = [shlex.split(command.split("#")[0]) for command in COMMANDS]
    training = [w[2:] for w in words if w[1] == "scripts/train.py"]
    assert training
    for model, *rest in training:
        assert model == "model=mean_field"
        compose.check_command_line(["model=transformer", *rest])


def test_example_learns(example):
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


def test_example_ignores_padding(example):
    net = example.encoder.double().eval()
    d_model = net.blocks[0].norm.norm.normalized_shape[0]
    x = torch.randn(2, 9, d_model, dtype=torch.float64)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    longer_mask = torch.nn.functional.pad(mask, (0, 3))
    longer = torch.nn.functional.pad(x, (0, 0, 0, 3)).masked_fill(~longer_mask[..., None], 9.0)
    torch.testing.assert_close(net(longer, longer_mask)[:, :9][mask], net(x, mask)[mask])


def test_example_rate_reaches_the_optimiser(example):
    (group,) = [g for g in param_groups(example) if g.get("lr") == 2e-3]
    values = [p for name, p in example.named_parameters() if name.endswith("value.weight")]
    assert {id(p) for p in group["params"]} == {id(p) for p in values}


def test_named_files_exist():
    for path in re.findall(r"`((?:lra|tests|results|configs|models)/[\w./]+\w)`", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("model", [*MODELS, *limited()])
def test_table_describes_every_model(model):
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
        assert f"def {test}(" in (ROOT / (path or f"tests/models/test_{stem}.py")).read_text(), test


def test_table_has_only_existing_models():
    assert set(TABLE) <= {*MODELS, *limited()}
    assert "models/README.md" in (ROOT / "README.md").read_text()


def test_exemptions_are_mentioned():
    exempt = [p.stem for p in (ROOT / "models").glob("*.py") if re.search(r"^ +exempt = ", p.read_text(), re.M)]
    assert (exempt == []) == ("No model here needs one" in " ".join(README.split()))


def test_models_without_published_settings_are_listed():
    folders = {model: ROOT / "configs/recipe" / model for model in MODELS}
    recipes = {m: [compose.source_of(f"{m}/{p.stem}") for p in folders[m].glob("*") if p.stem in LRA] for m in MODELS}
    unpublished = {m for m, cited in recipes.items() if all(s.startswith(compose.UNPUBLISHED) for s in cited)}
    # s4d takes S4's recipes; the form in chunks is listed with its model
    unpublished -= {"s4d", "megalodon_chunk"}
    listed = re.search(r"no settings published for LRA that we know of: (.*?)\.", README, re.S)[1]
    assert set(re.findall(r"`(\w+)`", listed)) == unpublished
    assert "`s4d` takes S4's recipes" in README
