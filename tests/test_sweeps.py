"""Sweep files are valid by W&B's schema, and train.py accepts the commands of their agents."""

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
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from helpers.compose import CONFIGS, compose
from lra.config.compose import check_command_line, composed, plain
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
    """All combinations of a grid in the order of the server: the last parameter changes fastest."""
    values = [p["values"] if "values" in p else [p["value"]] for p in config["parameters"].values()]
    names = list(config["parameters"])
    return [{k: {"value": v} for k, v in zip(names, c, strict=True)} for c in itertools.product(*values)]


def command(config: dict, chosen: dict[str, dict]) -> list[str]:
    """Command of an agent, expanded by W&B."""
    words = create_sweep_command_args({"args": chosen})
    places = {"${env}": [], "${interpreter}": [sys.executable], "${program}": [config["program"]]}
    places |= {"${" + name + "}": value for name, value in words.items() if isinstance(value, list)}
    return [word for part in create_sweep_command(list(config["command"])) for word in places.get(part, [part])]


@pytest.mark.parametrize("name", SWEEPS)
def test_valid_by_the_schema(name):
    validator = jsonschema.Draft7Validator(SCHEMA)
    assert [error.message for error in validator.iter_errors(sweep(name))] == []
    broken = sweep(name) | {"metod": "grid"}
    broken["parameters"]["task"] = {"valeus": ["listops"]}
    assert len(list(validator.iter_errors(broken))) > 0


@pytest.mark.parametrize("name", SWEEPS)
def test_combinations_are_accepted(name):
    config = sweep(name)
    chosen = combinations(config)
    assert len({json.dumps(c) for c in chosen}) == len(chosen) > 1
    for one in (chosen[0], chosen[-1]):
        interpreter, program, *words = command(config, one)
        assert (interpreter, program) == (sys.executable, "scripts/train.py")
        check_command_line(words)
        cfg = compose(*words, "scale=smoke")
        check_targets(plain(cfg))
        assert (cfg.wandb.mode, cfg.seed) == ("online", one.get("seed", {"value": 0})["value"])
        instantiate(cfg.model, spec=instantiate(cfg.task).spec)


def test_grid_of_the_paper_is_complete():
    config = sweep("lra")
    assert config["parameters"]["task"]["values"] == list(TASKS)
    assert set(config["parameters"]["model"]["values"]) <= {p.stem for p in (CONFIGS / "model").glob("*.yaml")}
    assert len(combinations(config)) == 3 * 6 * 9


@pytest.mark.slow
def test_an_agents_first_command_trains(tmp_path):
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
def test_last_combination_of_other_sweeps_trains(name, tmp_path):
    config = sweep(name)
    words = command(config, combinations(config)[-1])[2:]
    smallest = ["scale=smoke", "data.source=toy", "wandb.mode=disabled", "trainer.accelerator=cpu"]
    folders = [f"data.root={tmp_path}/data", f"results={tmp_path}/results", f"runs={tmp_path}/runs"]
    assert job.one(**composed([*words, *smallest, *folders])) == 0
    (path,) = (tmp_path / "results").rglob("*.json")
    record = load(path)
    assert record.status == "ok"
    assert record.variant == sorted(w for w in words if w.startswith("model."))


def test_sweep_files_have_a_description():
    for name in SWEEPS:
        text = (CONFIGS / "sweep" / f"{name}.yaml").read_text()
        assert text.startswith("# "), name
        assert yaml.safe_load(text)["metric"] == {"name": "val/best", "goal": "maximize"}
        assert Path(ROOT / yaml.safe_load(text)["program"]).is_file()
