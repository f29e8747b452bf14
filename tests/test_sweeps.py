"""Every sweep file is valid by W&B's own schema, and the command an agent makes of it is one that train.py knows."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from helpers.compose import CONFIGS, compose
from lra.config.compose import check_command_line, composed
from lra.config.schema import check_targets
from lra.launch import job
from lra.records.published import TASKS
from lra.records.store import load

ROOT = CONFIGS.parent
# schema.json of the package sweeps 0.3.0 (github.com/wandb/sweeps), MIT licence beside it
SCHEMA = json.loads((ROOT / "tests/golden/wandb_sweep_schema.json").read_text())
SWEEPS = sorted(p.stem for p in (CONFIGS / "sweep").glob("*.yaml"))


def sweep(name: str) -> dict:
    return load_sweep_config(str(CONFIGS / "sweep" / f"{name}.yaml"))


def combinations(config: dict) -> list[dict[str, dict]]:
    """All of a grid, as the server gives them to agents: the last parameter changes fastest."""
    values = [p["values"] if "values" in p else [p["value"]] for p in config["parameters"].values()]
    names = list(config["parameters"])
    return [{k: {"value": v} for k, v in zip(names, c, strict=True)} for c in itertools.product(*values)]


def command(config: dict, chosen: dict[str, dict]) -> list[str]:
    """What an agent runs, by W&B's own expansion."""
    words = create_sweep_command_args({"args": chosen})
    places = {"${env}": [], "${interpreter}": [sys.executable], "${program}": [config["program"]]}
    places |= {"${" + name + "}": value for name, value in words.items() if isinstance(value, list)}
    return [word for part in create_sweep_command(list(config["command"])) for word in places.get(part, [part])]


def test_the_sweeps_asked_for_are_there():
    assert {"lr", "init", "dt", "size", "lra"} <= set(SWEEPS)


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_is_valid_by_the_schema_of_its_engine(name):
    validator = jsonschema.Draft7Validator(SCHEMA)
    assert [error.message for error in validator.iter_errors(sweep(name))] == []
    broken = sweep(name) | {"metod": "grid"}
    broken["parameters"]["task"] = {"valeus": ["listops"]}
    assert len(list(validator.iter_errors(broken))) > 0


@pytest.mark.parametrize("name", SWEEPS)
def test_every_combination_is_understood_and_the_first_and_last_make_a_model(name):
    config = sweep(name)
    chosen = combinations(config)
    assert len({json.dumps(c) for c in chosen}) == len(chosen) > 1
    for one in (chosen[0], chosen[-1]):
        interpreter, program, *words = command(config, one)
        assert (interpreter, program) == (sys.executable, "scripts/train.py")
        check_command_line(words)
        cfg = compose(*words, "scale=smoke")
        check_targets(OmegaConf.to_container(cfg, resolve=True))
        assert (cfg.wandb.mode, cfg.seed) == ("online", one.get("seed", {"value": 0})["value"])
        instantiate(cfg.model, spec=instantiate(cfg.task).spec)


def test_the_grid_of_the_paper_is_whole():
    config = sweep("lra")
    assert config["parameters"]["task"]["values"] == list(TASKS)
    assert set(config["parameters"]["model"]["values"]) <= {p.stem for p in (CONFIGS / "model").glob("*.yaml")}
    assert len(combinations(config)) == 3 * 6 * 9


@pytest.mark.slow
def test_an_agents_first_command_trains(tmp_path):
    """In an agent's environment, but offline and at the smallest scale."""
    config = sweep("lr")
    last = {"scale": "smoke", "wandb.mode": "offline", "data.root": f"{tmp_path}/data", "data.source": "toy"}
    last |= {"results": f"{tmp_path}/results", "runs": f"{tmp_path}/runs"}
    words = command(config, combinations(config)[0] | {k: {"value": v} for k, v in last.items()})
    agent = {"WANDB_SWEEP_ID": "abcd1234", "WANDB_RUN_ID": "ab12cd34", "WANDB_PROJECT": "other", "WANDB_DIR": tmp_path}
    environment = {**os.environ, **{k: str(v) for k, v in agent.items()}}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "results").rglob("*.json")
    record = load(path)
    assert record.wandb == "ab12cd34"
    assert record.variant == ["model.mixer.lr=0.0003", "optimizer.lr=0.0003"]
    (kept,) = tmp_path.glob("wandb/offline-run-*/files/record.json")
    assert kept.read_text() == path.read_text()
    assert kept.parents[1].name.endswith("ab12cd34")


@pytest.mark.parametrize("name", sorted(set(SWEEPS) - {"lr"}))
def test_the_last_combination_of_every_other_sweep_trains(name, tmp_path):
    config = sweep(name)
    words = command(config, combinations(config)[-1])[2:]
    smallest = ["scale=smoke", "data.source=toy", "wandb.mode=disabled", "trainer.accelerator=cpu"]
    folders = [f"data.root={tmp_path}/data", f"results={tmp_path}/results", f"runs={tmp_path}/runs"]
    assert job.one(**composed([*words, *smallest, *folders])) == 0
    (path,) = (tmp_path / "results").rglob("*.json")
    record = load(path)
    assert record.status == "ok"
    assert record.variant == sorted(w for w in words if w.startswith("model."))


def test_every_sweep_file_says_what_it_is_for():
    for name in SWEEPS:
        text = (CONFIGS / "sweep" / f"{name}.yaml").read_text()
        assert text.startswith("# "), name
        assert yaml.safe_load(text)["metric"] == {"name": "val/best", "goal": "maximize"}
        assert Path(ROOT / yaml.safe_load(text)["program"]).is_file()
