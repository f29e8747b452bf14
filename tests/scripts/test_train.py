"""scripts/train.py as a user meets it: a record, its number in the table, and one line for every mistake."""

import json
import re
import shutil
import subprocess
import sys
import threading

import pytest

from lra.config import overrides, tuned
from lra.config.compose import composed
from lra.config.overrides import check_command_line, check_targets
from lra.launch import job
from lra.launch.lock import claim
from lra.paths import ROOT
from lra.records.store import load
from lra.tables.aggregate import learned


def call(*arguments, script="train.py"):
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture
def cell(tmp_path):
    """A cell of seconds, with folders of its own."""
    folders = [f"results={tmp_path}/results", f"runs={tmp_path}/runs", f"data.root={tmp_path}/data"]
    return ["task=listops", "model=transformer", "scale=smoke", "training.steps=6", *folders]


@pytest.mark.slow
def test_a_record_is_written_found_again_and_made_again_with_the_same_numbers(cell, tmp_path):
    first = call(*cell, "wandb.mode=disabled")
    assert first.returncode == 0, first.stderr
    (path,) = (tmp_path / "results").rglob("*.json")
    record = json.loads(path.read_text())
    assert record["status"] == "ok"
    assert record["variant"] == ["training.steps=6"]
    assert "training.steps=6" in record["command"]
    assert record["kernel_backend"] is None
    assert f"{100 * record['test_accuracy']:.2f} %" in first.stderr
    again = call(*cell, "wandb.mode=disabled")
    assert again.returncode == 0
    assert "exists" in again.stderr
    assert json.loads(path.read_text()) == record
    path.unlink()
    # offline W&B changes nothing, asks nothing
    third = call(*cell)
    assert third.returncode == 0, third.stderr
    anew = json.loads(path.read_text())
    for name in ("test_correct", "val_accuracy", "config_hash"):
        assert anew[name] == record[name]
    losses = [[(p["step"], p["train_loss"], p["val_loss"]) for p in r["curve"]] for r in (record, anew)]
    assert losses[0] == losses[1]
    assert anew["wandb"]


@pytest.mark.slow
def test_the_number_of_a_record_stands_in_the_table(cell, tmp_path):
    plain = [word for word in cell if not word.startswith("training.")]
    assert call(*plain, "wandb.mode=disabled").returncode == 0
    (path,) = (tmp_path / "results").rglob("*.json")
    assert path.relative_to(tmp_path / "results").as_posix() == "smoke/transformer/listops/0.json"
    done = call(f"--runs={tmp_path}/results", f"--out={tmp_path}/tables", "--quiet", script="tables.py")
    assert done.returncode == 0, done.stderr
    record = load(path)
    table = (tmp_path / "tables/smoke.md").read_text().splitlines()
    row = next(line for line in table if line.startswith("| Transformer"))
    assert (f"{100 * record.test_accuracy:.2f}" if learned(record) else "✗") in row


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["task=listopz"], "task=listopz: there is no such task; did you mean listops?"),
        (["model=s44"], "model=s44: there is no such model; did you mean s4?"),
        (["scale=minni"], "scale=minni: there is no such scale; did you mean mini?"),
        (["model.d_modle=8"], "model.d_modle=8: there is no option model.d_modle; did you mean model.d_model?"),
        (["optimiser.lr=1"], "there is no option optimiser.lr; did you mean optimizer.lr?"),
        (["task=listops", "model"], "model"),
        (["task=listops", "--cfg", "jbo"], "argument --cfg/-c: invalid choice: 'jbo'"),
        (["task=listops", "--mutlirun"], "--mutlirun: there is no such option (--hydra-help lists them)"),
        (["--task", "listops"], "a setting is a word such as task=listops"),
        (["listops", "s4"], "'listops': a word such as task=listops is expected"),
        (["lr=0.1"], "lr=0.1: there is no option lr; did you mean optimizer.lr"),
        (["batch_size=8"], "there is no option batch_size; did you mean task.batch_size?"),
        (["task=listops", "-m", "model=s4"], "model=s4: the words with = stand together"),
        (["model.d_model=${x}"], "Interpolation key 'x' not found"),
        (["hydra.run.dir=choice(a,b)"], "hydra.run.dir=choice(a,b): several values; -m runs each"),
        (
            ["-m", "hydra.run.dir=choice(a,b)"],
            "hydra.run.dir=choice(a,b): several values, but what is Hydra's own has one",
        ),
    ],
)
def test_a_misspelt_word_is_one_line_with_the_nearest_right_one(arguments, line, capsys):
    with pytest.raises(SystemExit) as stop:
        check_command_line(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("more", [["--cfg", "job", "--resolve"], ["-c", "job", "-p", "model"], ["--multirun"]])
@pytest.mark.parametrize("behind", [True, False])
def test_options_of_hydra_that_take_a_word_are_no_misspelt_key(more, behind):
    words = ["task=listops", "model=s4"]
    check_command_line([*words, *more] if behind else [*more, *words])


BROKEN = {
    "model/mine.yaml": [
        ("defaults: [_transformer, _self_]\nmixer: {_partial_: true\n", r"mine\.yaml\", line 2, .* but got"),
        ("defaults: [_transfomer, _self_]\n", r"'model/mine': Could not load 'model/_transfomer'"),
        ("mixer: {}\n", r"model=mine: its file names no family: begin it with defaults: \[_transformer, _self_\]"),
        ("- a\n", r"model=mine: its file names no family"),
    ],
    "tuned/mine.yaml": [
        ("a: b: c\n", r"tuned/mine\.yaml: mapping values are not allowed"),
        ("- a\n", r"tuned/mine\.yaml: a section for each task is expected"),
        ("source: mine\nlistopz: {}\n", r"tuned/mine\.yaml: listopz is no task"),
    ],
}


@pytest.mark.parametrize(("name", "content", "line"), [(n, *case) for n, cases in BROKEN.items() for case in cases])
def test_a_mistake_in_a_file_of_ones_own_is_one_line(name, content, line, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "configs"
    shutil.copytree(overrides.CONFIGS, folder)
    monkeypatch.setattr(overrides, "CONFIGS", folder)
    if name.startswith("model"):
        check_command_line(["task=listops", "model=s4"])
    (folder / name).write_text(content)
    with pytest.raises(SystemExit) as stop:
        check_command_line(["task=listops", "model=mine"]) if name.startswith("model") else tuned.offer(folder)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert re.search(line, said)
    assert said.count("\n") == 1


def test_a_misspelt_key_in_a_recipe_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        check_targets({"model": {"_target_": "lra.nn.classifier.Classifier", "n_layer": 3}})
    assert stop.value.code == 2
    assert (
        "model.n_layer: lra.nn.classifier.Classifier has no argument n_layer; did you mean n_layers?"
        in capsys.readouterr().err
    )


def test_a_mixer_that_would_be_made_too_early_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        check_targets({"model": {"mixer": {"_target_": "models.s4.S4"}}})
    assert stop.value.code == 2
    assert "model.mixer: needs _partial_: true" in capsys.readouterr().err


@pytest.mark.slow
def test_a_wrong_value_is_one_line_and_status_2(cell):
    done = call(*cell, "model.norm=bach", "wandb.mode=disabled")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == "train.py: norm: 'bach' is not one of layer, batch, rms"
    assert "Traceback" not in done.stderr


def test_two_processes_cannot_hold_one_cell(tmp_path, capsys):
    held = claim(tmp_path)
    with pytest.raises(SystemExit) as stop:
        claim(tmp_path)
    assert stop.value.code == 2
    assert "is training this cell" in capsys.readouterr().err
    held.close()
    claim(tmp_path).close()


def test_a_process_that_is_just_ending_is_waited_for(tmp_path, monkeypatch, capsys):
    held = claim(tmp_path)
    monkeypatch.setenv("LRA_PATIENCE", "0.5")
    with pytest.raises(SystemExit):
        claim(tmp_path)
    assert "is training this cell" in capsys.readouterr().err
    monkeypatch.setenv("LRA_PATIENCE", "60")
    ending = threading.Timer(0.5, held.close)
    ending.start()
    claim(tmp_path).close()
    ending.join()
    assert held.closed


def test_ctrl_c_before_the_training_is_one_line_and_status_130(tmp_path, monkeypatch, capsys):
    def interrupted(content):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "check_values", interrupted)
    assert job.one(**composed(["task=listops", "model=fnet", f"runs={tmp_path}"])) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"
