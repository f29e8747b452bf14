"""Runs go to the Hugging Face Hub and come back the same; every failure is one line. The Hub is a local stand-in."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import constants

from helpers.finished_run import small_run
from helpers.hub_server import TOKEN, hub_server
from helpers.records import replace
from lra import hub
from lra.launch.evaluation import load_model
from lra.paths import ROOT
from lra.records.record import parse
from lra.training import weights
from scripts import evaluate, push

NAME = "me/small"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, small_run(folder, "model=s4d")


@pytest.fixture
def online(tmp_path, monkeypatch):
    """The stand-in, as HF_ENDPOINT and HF_TOKEN name it; the client reads these variables when it is imported."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    # hf_xet is a binary that speaks to a second service; without it the client uploads by plain HTTP
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_server() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def call(capsys, command, *words) -> tuple[int, str, str]:
    """Exit status and output of a script."""
    try:
        status = command([str(word) for word in words])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, "".join(line for line in err.splitlines(keepends=True) if "B/s" not in line)


def evaluated(monkeypatch, capsys, *words):
    def command(arguments):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
        return evaluate.command()

    return call(capsys, command, *words)


def test_a_run_comes_back_as_it_was_pushed(finished, online, tmp_path, monkeypatch, capsys):
    folder, record = finished
    status, out, err = call(capsys, push.main, folder / "run", NAME)
    assert (status, err) == (0, "")
    commit = out.strip().rpartition("/")[2]
    files = online.repositories[NAME]["commits"][commit]
    assert sorted(files) == ["README.md", "config.json", "model.safetensors", "record.json"]
    assert parse(files["record.json"].decode(), where="there") == record
    assert json.loads(files["config.json"]) == record.config

    online.add(NAME, {"README.md": b"edited"})
    words = [f"data.root={folder / 'data'}", "data.source=toy", "accelerator=cpu"]
    for address in (f"hf://{NAME}", f"hf://{NAME}@{commit}"):
        status, out, _ = evaluated(monkeypatch, capsys, f"checkpoint={address}", *words)
        assert status == 0
        assert f"({record.test_totals['correct']} of {record.test_totals['examples']}): as recorded" in out
    # the weights are in the cache now
    model, _, _ = load_model(f"hf://{NAME}@{commit}")
    ours = weights.load(folder / "run/model.safetensors")[0]
    assert all(torch.equal(value, ours[name]) for name, value in model.state_dict().items())


@pytest.mark.nightly
def test_environment_of_the_client_is_enough(finished, online, tmp_path):
    folder, _ = finished
    environment = {**os.environ, "HF_ENDPOINT": online.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path)}
    environment["HF_HUB_DISABLE_XET"] = "1"
    command = [sys.executable, "-m", "lra", "push", str(folder / "run"), "me/other", "--private"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{online.url}/me/other/commit/")
    assert online.repositories["me/other"]["private"]


def test_card_states_the_record(finished):
    _, record = finished
    text = hub.card(replace(record, test_score=0.75, test_totals={"correct": 1500, "examples": 2000}), NAME)
    _, metadata, body = text.split("---\n", 2)
    (result,) = yaml.safe_load(metadata)["model-index"]
    assert result["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.75}]
    assert "accuracy 75.00 % (1500 of 2000); 95 % interval over the test examples: 73.04 % to 76.88 %" in body
    facts = record.command, f"{record.parameters:,}", record.git.commit or "none", record.data.fingerprint[:12]
    for fact in (*facts, record.selection.rule, "none: untuned", record.hardware.device):
        assert fact in body, fact
    assert "not significantly better" not in body
    assert "not significantly better" in hub.card(replace(record, data=replace(record.data, trivial=0.75)), NAME)


def test_lines_of_the_card_load_the_model(finished, online, tmp_path, monkeypatch):
    folder, record = finished
    hub.push(folder / "run/model.safetensors", NAME)
    lines = re.search("```python\n(.*?)```", hub.card(record, NAME), re.DOTALL)[1]
    assert len(re.findall(r"^\w.* = .*$|^data\.", lines, re.MULTILINE)) == 5
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(lines, found)
    assert found["record"] == record
    assert found["outputs"].shape == (len(found["batch"].y), found["data"].spec.n_outputs)


def test_examples_of_real_data_stay_here(finished, tmp_path):
    folder, record = finished
    assert record.examples
    model = load_model(str(folder / "run"))[0]
    real = replace(record, data=replace(record.data, kind="subset"))
    weights.save(tmp_path / "model.safetensors", model, real)
    files = hub.files(tmp_path / "model.safetensors", NAME)
    (tmp_path / "sent.safetensors").write_bytes(files["model.safetensors"])
    for sent in (weights.load(tmp_path / "sent.safetensors")[1], parse(files["record.json"].decode(), where="there")):
        assert sent == replace(real, examples=[])


def test_files_can_be_looked_at_first(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", None)
    folder, _ = finished
    status, out, _ = call(capsys, push.main, folder / "run", NAME, "--to", tmp_path / "out")
    assert status == 0
    assert {Path(line).name for line in out.splitlines()} == {path.name for path in (tmp_path / "out").iterdir()}
    assert load_model(str(tmp_path / "out"))[2].model == "s4d"


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        ("no token", "me/small: no Hugging Face token on this machine; hint: .venv/bin/hf auth login, or HF_TOKEN=..."),
        ("wrong token", "me/small: the Hugging Face Hub refused (401: Invalid username or password.); hint: .venv/bin"),
        ("no rights", "other/small: the Hugging Face Hub refused (403: You don't have the rights"),
        ("no name", "small: not the name of a repository on the Hugging Face Hub; hint: user/name"),
        ("public", "me/small: exists and is public; hint: another name"),
        ("no record", "model.safetensors: has no record of a finished run"),
        ("no server", "me/small: no transfer from or to the Hugging Face Hub ("),
    ],
)
def test_upload_that_cannot_be_made_is_one_line(mistake, line, finished, online, tmp_path, monkeypatch, capsys):
    folder, path, words = finished[0], finished[0] / "run", [NAME]
    if mistake == "no token":
        monkeypatch.delenv("HF_TOKEN")
    elif mistake == "wrong token":
        monkeypatch.setenv("HF_TOKEN", "hf_revoked_token")
    elif mistake == "no rights":
        words = ["other/small"]
    elif mistake == "no name":
        words = ["small"]
    elif mistake == "public":
        online.add(NAME, {})
        words.append("--private")
    elif mistake == "no record":
        path = tmp_path / "model.safetensors"
        from safetensors.torch import save_file

        save_file(weights.load(folder / "run/model.safetensors")[0], path)
    elif mistake == "no server":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    status, out, err = call(capsys, push.main, path, *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert line in err
    assert not any(files for r in online.repositories.values() for files in r["commits"].values())


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        ("unknown", "hf://me/small: no such repository, or a private one; hint: .venv/bin/hf auth login"),
        ("private", "hf://me/small: no such repository, or a private one; hint: .venv/bin/hf auth login"),
        ("revision", "hf://me/small@v2: no such revision; hint: a branch"),
        ("address", "checkpoint=hf://small: not the name of a repository"),
        ("other files", "hf://me/small: has no model.safetensors, so it is not a model of `lra push`"),
        ("pickle", "hf://me/small: its model.safetensors is not an intact safetensors file ("),
        ("cut", "hf://me/small: no transfer from or to the Hugging Face Hub (Consistency check failed"),
        ("flip", "the weights do not match their checksum); hint: repeat the command to download it again"),
        ("no server", "hf://me/small: no transfer from or to the Hugging Face Hub ("),
        ("no record", "model.safetensors: weights without a record; hint: record="),
    ],
)
def test_download_that_cannot_be_used_is_one_line(mistake, line, finished, online, tmp_path, monkeypatch, capsys):
    address, raw = f"hf://{NAME}", (finished[0] / "run/model.safetensors").read_bytes()
    content = {"model.safetensors": raw}
    if mistake == "other files":
        content = {"pytorch_model.bin": b"\x80\x04"}
    elif mistake == "pickle":
        content = {"model.safetensors": b"\x80\x04N." * 50}
    elif mistake == "no record":
        from safetensors.torch import save

        content = {"model.safetensors": save({"w": torch.ones(2)})}
    if mistake != "unknown":
        online.add(NAME, content, private=mistake == "private")
    if mistake == "private":
        monkeypatch.delenv("HF_TOKEN")
    elif mistake == "revision":
        address += "@v2"
    elif mistake == "address":
        address = "hf://small"
    elif mistake == "cut":
        online.cut = 10
    elif mistake == "flip":
        online.flip = 10
    elif mistake == "no server":
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        # the client tries again for half a minute
        monkeypatch.setattr("time.sleep", lambda seconds: None)
    words = [f"checkpoint={address}", f"data.root={finished[0] / 'data'}", "data.source=toy", "accelerator=cpu"]
    status, out, err = evaluated(monkeypatch, capsys, *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert line in err
    online.cut = online.flip = 0
    if mistake in ("cut", "flip"):
        # the damaged bytes are not kept
        assert evaluated(monkeypatch, capsys, *words)[0] == 0


def test_recorded_classes_of_the_hub_are_checked(finished, online, tmp_path, monkeypatch, capsys):
    folder, record = finished
    config = json.loads(json.dumps(record.config))
    config["model"]["_target_"] = "os.system"
    from lra.records.record import config_hash

    changed = replace(record, config=config, config_hash=config_hash(config))
    tensors = weights.load(folder / "run/model.safetensors")[0]
    online.add(NAME, {"model.safetensors": weights.serialised(tensors, changed)})
    status, _, err = evaluated(monkeypatch, capsys, f"checkpoint=hf://{NAME}")
    assert (status, err.count("\n")) == (2, 1)
    assert "not a class of models/, data/ or lra/; not loaded" in err
    shutil.rmtree(tmp_path / "cache")
