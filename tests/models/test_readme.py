"""The example in models/README.md works as written."""

import importlib.util
import re
import shutil
import sys
from pathlib import Path

import hydra
import pytest
import torch
from hydra.utils import instantiate

from lra.optim import param_groups
from lra.task import TaskSpec

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "models" / "README.md").read_text()


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The files of the example under tmp_path, beside a copy of the configurations, and the module importable."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", README, flags=re.DOTALL)
    assert [path for path, _ in blocks] == ["models/mean_field.py", "configs/model/mean_field.yaml"]
    for path, text in blocks:
        target = tmp_path / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)
    spec = importlib.util.spec_from_file_location("models.mean_field", tmp_path / "models/mean_field.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "models.mean_field", module)
    with hydra.initialize_config_dir(str(tmp_path / "configs"), version_base="1.3"):
        cfg = hydra.compose("train", overrides=["model=mean_field", "task=listops", "scale=smoke"])
    torch.manual_seed(0)
    return instantiate(cfg.model, spec=TaskSpec("test", 20, 3, 11, ragged=True))


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
