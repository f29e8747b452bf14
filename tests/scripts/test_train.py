"""scripts/train.py: a record, its number in the table, and one line for every mistake."""

import json
import re
import shutil
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from lra import paths
from lra.config.compose import check_command_line, composed
from lra.config.schema import check_targets
from lra.launch import job
from lra.launch.lock import run_lock
from lra.launch.sweep import Sweep
from lra.paths import ROOT
from lra.records.store import load
from lra.tables.aggregate import learned
from scripts import train


def call(*arguments, script="train.py"):
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture
def cell(tmp_path):
    """A run of seconds in its own folders."""
    folders = [f"results={tmp_path}/results", f"runs={tmp_path}/runs", f"data.root={tmp_path}/data"]
    return ["task=listops", "model=transformer", "scale=smoke", "training.steps=6", *folders]


@pytest.mark.slow
def test_record_is_found_again_and_repeated_exactly(cell, tmp_path):
    first = call(*cell, "wandb.mode=disabled")
    assert first.returncode == 0, first.stderr
    (path,) = (tmp_path / "results").rglob("*.json")
    record = json.loads(path.read_text())
    assert record["status"] == "ok"
    assert record["variant"] == ["training.steps=6"]
    assert "training.steps=6" in record["command"]
    assert record["kernel_backend"] is None
    assert f"{100 * record['test_score']:.2f} %" in first.stderr
    again = call(*cell, "wandb.mode=disabled")
    assert again.returncode == 0
    assert "exists" in again.stderr
    assert json.loads(path.read_text()) == record
    path.unlink()
    # offline W&B changes nothing
    third = call(*cell)
    assert third.returncode == 0, third.stderr
    repeated = json.loads(path.read_text())
    for name in ("test_totals", "val_score", "config_hash"):
        assert repeated[name] == record[name]
    losses = [[(p["step"], p["train_loss"], p["val_loss"]) for p in r["curve"]] for r in (record, repeated)]
    assert losses[0] == losses[1]
    assert repeated["wandb"]


@pytest.mark.slow
def test_table_shows_the_number_of_the_record(cell, tmp_path):
    plain = [word for word in cell if not word.startswith("training.")]
    assert call(*plain, "wandb.mode=disabled").returncode == 0
    (path,) = (tmp_path / "results").rglob("*.json")
    assert path.relative_to(tmp_path / "results").as_posix() == "smoke/transformer/listops/0.json"
    done = call(f"--runs={tmp_path}/results", f"--out={tmp_path}/tables", "--quiet", script="tables.py")
    assert done.returncode == 0, done.stderr
    record = load(path)
    table = (tmp_path / "tables/smoke.md").read_text().splitlines()
    row = next(line for line in table if line.startswith("| Transformer"))
    assert (f"{100 * record.test_score:.2f}" if learned(record) else "✗") in row


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["task=listopz"], r"task=listopz: no such task .*; hint: did you mean listops\?"),
        (["model=s44"], r"model=s44: no such model .*did you mean s4\?"),
        (["scale=minni"], r"no such scale .*did you mean mini\?"),
        (["recipe=s4/listopz"], r"no such recipe; hint: did you mean s4/listops\?"),
        (["model.d_modle=8"], r"there is no option model.d_modle; hint: did you mean model.d_model\?"),
        (["optimiser.lr=1"], r"did you mean optimizer.lr\?"),
        (["task=listops", "model"], "'model': not a setting"),
        (["task=listops", "--cfg", "jbo"], "argument --cfg/-c: invalid choice: 'jbo'"),
        (["task=listops", "--mutlirun"], "--mutlirun: no such option"),
        (["--task", "listops"], "--task: no such option; hint: .*task=listops"),
        (["lr=0.1"], "there is no option lr; hint: did you mean optimizer.lr"),
        (["batch_size=8"], r"did you mean task.batch_size\?"),
        (["task=listops", "-m", "model=s4"], "model=s4: overrides are separated by an option"),
        (["model.d_model=${x}"], "Interpolation key 'x' not found"),
        (["model=s4,s4d"], "Ambiguous value for argument 'model=s4,s4d'; hint: -m runs each value"),
        (["hydra.run.dir=choice(a,b)"], "requires --multirun"),
        (["-m", "hydra.run.dir=choice(a,b)"], "Sweeping over Hydra's configuration is not supported"),
        (["-m", "model=glob(z*)"], r"model=glob\(z\*\): matches no choice"),
        (["training.warmup=x"], "training.warmup is 'x'"),
        (["+other=1"], "other: no such section"),
        (["trainer.devices=0"], "trainer.devices=0: "),
    ],
)
def test_a_mistake_is_one_line(arguments, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        train.command()
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert re.search(line, printed)
    assert printed.count("\n") == 1


@pytest.mark.parametrize("options", [["--cfg", "job", "--resolve"], ["-c", "job", "-p", "model"]])
@pytest.mark.parametrize("behind", [True, False])
def test_options_of_hydra(options, behind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["task=listops", "model=lssl"]
    monkeypatch.setattr(sys, "argv", ["train.py", *([*words, *options] if behind else [*options, *words])])
    train.command()
    assert "models.lssl.LSSL" in capsys.readouterr().out


def test_help_lists_what_can_be_composed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        train.command()
    assert stop.value.code in (0, None)
    listed, _, settings = capsys.readouterr().out.partition("== Settings")
    choices = dict(re.findall(r"^(\w+): (.*)$", listed.partition("choice) ==")[2], re.M))
    assert set(choices) == {"task", "model", "scale", "trainer", "recipe"}
    for group in ("task", "scale", "trainer"):
        for choice in choices[group].split(", "):
            composed([f"{group}={choice}"])
    assert choices["model"].split(", ") == sorted(p.stem for p in (paths.CONFIGS / "model").glob("[a-z]*.yaml"))
    assert "optimizer:\n  lr: " in settings


def test_shell_completion(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "-sc", "query=bash"])
    monkeypatch.setenv("COMP_LINE", "train.py scale=")
    monkeypatch.setenv("COMP_POINT", "15")
    train.command()
    assert {"scale=mini", "scale=paper"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("defaults: [_transformer, _self_]\nmixer: {_partial_: true\n", r"mine\.yaml\", line 2, .* but got"),
        ("defaults: [_transfomer, _self_]\n", r"'model/mine': Could not load 'model/_transfomer'"),
        ("mixer: {}\n", r"names no family; hint: begin it with defaults: \[_transformer, _self_\]"),
        ("- a\n", "model=mine: its file names no family"),
    ],
)
def test_a_mistake_in_a_model_file_is_one_line(content, line, tmp_path, monkeypatch):
    shutil.copytree(paths.CONFIGS, tmp_path / "configs")
    monkeypatch.setattr(paths, "CONFIGS", tmp_path / "configs")
    check_command_line(["task=listops", "model=s4"])
    (tmp_path / "configs/model/mine.yaml").write_text(content)
    with pytest.raises(ValueError, match=line) as error:
        check_command_line(["task=listops", "model=mine"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ({"_target_": "lra.nn.classifier.Classifier", "n_layer": 3}, r"model\.n_layer: .* did you mean n_layers\?"),
        ({"mixer": {"_target_": "models.s4.S4"}}, r"model\.mixer: has no _partial_"),
        ({"_target_": "models.s5.S4"}, r"model\._target_=models\.s5\.S4: "),
    ],
)
def test_a_misspelt_argument_in_a_file(model, line):
    with pytest.raises(ValueError, match=line):
        check_targets({"model": model})


@pytest.mark.slow
def test_a_wrong_value_is_one_line_and_status_2(cell):
    done = call(*cell, "model.norm=bach", "wandb.mode=disabled")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("train.py: norm: 'bach' is not one of layer, batch, rms")
    assert "Traceback" not in done.stderr


def test_existing_result_is_found_without_torch():
    code = "import sys; sys.path.insert(0, 'scripts'); from scripts import train; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_one_process_holds_the_lock(tmp_path, capsys):
    with run_lock(tmp_path), pytest.raises(SystemExit) as stop, run_lock(tmp_path):
        pass
    assert stop.value.code == 2
    assert "is training this run" in capsys.readouterr().err
    with run_lock(tmp_path):
        pass


@pytest.mark.parametrize(("patience", "granted"), [("0.2", False), ("60", True)])
def test_a_process_waits_for_one_that_is_ending(patience, granted, tmp_path, monkeypatch):
    monkeypatch.setenv("LRA_PATIENCE", patience)
    first = run_lock(tmp_path)
    first.__enter__()
    ending = threading.Timer(1.0, lambda: first.__exit__(None, None, None))
    ending.start()
    try:
        with run_lock(tmp_path):
            assert granted
    except SystemExit:
        assert not granted
    ending.join()


def test_sweep_numbers_its_runs_and_ranks_them(tmp_path, monkeypatch, capsys):
    validation = {1: 0.25, 2: 0.75, 3: None, 4: 0.5}

    def one_run(cfg, choices, overrides):
        return 0 if validation[cfg.seed] else 3

    def record(path):
        seed = int(path.stem)
        about = {"task": "listops", "scale": "smoke", "objective": "classification"}
        return SimpleNamespace(**about, val_score=validation[seed], test_score=seed / 100)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "task=listops", "model=s4", "scale=smoke", "seed=1,2,3,4"])
    monkeypatch.setattr(train, "run", one_run)
    monkeypatch.setattr(train, "load", record)
    monkeypatch.setattr(train, "sweep", Sweep())
    status = train.command()
    printed = capsys.readouterr()
    words = "task=listops model=s4 scale=smoke seed="
    assert [line for line in printed.err.splitlines() if line.startswith("run ")] == [
        f"run {n} of 4: {words}{n}" for n in (1, 2, 3, 4)
    ]
    assert printed.out.splitlines() == [
        "listops, scale smoke: 3 runs by validation accuracy",
        "   1  75.00 %, test 2.00 %  seed=2",
        "   2  50.00 %, test 4.00 %  seed=4",
        "   3  25.00 %, test 1.00 %  seed=1",
    ]
    assert status == f"1 runs without a result: {words}3"


def test_ctrl_c_before_training_is_one_line(tmp_path, monkeypatch, capsys):
    def interrupted(content):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "check_configuration", interrupted)
    assert job.one(**composed(["task=listops", "model=fnet", f"runs={tmp_path}"])) == 130
    assert capsys.readouterr().err == "stopped; the same command resumes it\n"
