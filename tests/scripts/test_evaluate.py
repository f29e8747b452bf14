"""scripts/evaluate.py reproduces the recorded accuracy, lists differences, and runs no code that a file names."""

import json
import math
import re
import struct
import sys

import pytest
import pytorch_lightning as pl
import torch

from data import language
from helpers.finished_run import small_run
from lra.launch import evaluation
from lra.paths import CONFIGS
from lra.training import weights
from scripts import evaluate


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    record = small_run(folder)
    return folder, record


def call(monkeypatch, capsys, *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
    try:
        status = evaluate.command()
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def options(folder) -> list[str]:
    return [f"data.root={folder / 'data'}", "data.source=toy", "accelerator=cpu"]


def test_recorded_accuracy_is_reproduced(finished, monkeypatch, capsys):
    folder, record = finished
    for given in (folder / "run", folder / "run/model.safetensors"):
        status, out, _ = call(monkeypatch, capsys, f"checkpoint={given}", *options(folder))
        assert status == 0
        assert f"({record.test_totals['correct']} of {record.test_totals['examples']}): as recorded" in out
        assert "differs" not in out


def test_missing_run_is_one_line_with_the_nearest(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, _, err = call(monkeypatch, capsys, "checkpoint=runs/mini/listops/s4/0-1234abcd")
    assert (status, err.count("\n")) == (2, 1)
    assert "0-1234abcd: no finished run, and no file of weights; hint: no run under runs/ is finished" in err
    begun = tmp_path / "runs/mini/listops/s4/1-00000000"
    begun.mkdir(parents=True)
    (begun / "last.ckpt").touch()
    assert "this run is not finished" in call(monkeypatch, capsys, f"checkpoint={begun}")[2]
    (begun.parent / "0-12345678").mkdir()
    (begun.parent / "0-12345678" / "model.safetensors").touch()
    for wrong in ("runs/mini/listops/s4/0-1234abcd", "runs/mini/listops/s4"):
        err = call(monkeypatch, capsys, f"checkpoint={wrong}")[2]
        assert "nearest finished runs: runs/mini/listops/s4/0-12345678" in err


def test_file_holds_the_record(finished):
    folder, record = finished
    assert weights.load(folder / "run/model.safetensors")[1] == record


def test_longer_inputs_for_a_state_space_model(tmp_path, monkeypatch, capsys):
    record = small_run(tmp_path, "model=s4")
    longer = 4 * record.config["task"]["max_len"]
    words = [f"checkpoint={tmp_path / 'run'}", *options(tmp_path), f"length={longer}"]
    status, out, _ = call(monkeypatch, capsys, *words)
    assert status == 0
    # toy expressions are no longer than before
    number = f"({record.test_totals['correct']} of {record.test_totals['examples']})"
    assert f"{number} at up to {longer} positions; recorded was" in out
    assert out.count(number) == 2


@pytest.mark.parametrize(
    ("length", "line"),
    [
        ("0", "not a number of positions"),
        ("1e3", "length is 1000.0"),
        ("4096", "hint: leave length= out"),
    ],
)
def test_impossible_length_is_one_line(length, line, finished, tmp_path, monkeypatch, capsys):
    def change(content):
        # learned positions cannot be extended
        content["config"]["model"]["positions"] = "learned"
        rehash(content)

    folder, _ = finished
    path = changed(folder, tmp_path, change)
    status, _, err = call(monkeypatch, capsys, f"checkpoint={path}", *options(folder), f"length={length}")
    assert (status, err.count("\n")) == (2, 1)
    assert line in err


def test_length_of_pictures_is_fixed():
    with pytest.raises(ValueError, match="length=4096: the inputs of this task"):
        evaluation.set_length({"task": {"size": 32}}, 4096)


def changed(folder, tmp_path, change):
    """A copy of the checkpoint with a changed record."""
    raw = (folder / "run/model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    content = json.loads(header["__metadata__"]["record"])
    change(content)
    header["__metadata__"]["record"] = json.dumps(content)
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    return path


def rehash(content):
    from lra.records.record import config_hash

    content["config_hash"] = config_hash(content["config"])


def test_differences_are_listed(finished, tmp_path, monkeypatch, capsys):
    def change(content):
        content["data"]["fingerprint"] = "f" * 64
        content["versions"]["torch"] = "0.4.1"
        content["git"] = {"commit": "1" * 40, "dirty": False}
        totals = content["test_totals"]
        totals["correct"] += 1
        content["test_score"] = totals["correct"] / totals["examples"]

    folder, record = finished
    path = changed(folder, tmp_path, change)
    status, out, _ = call(monkeypatch, capsys, f"checkpoint={path}", *options(folder))
    assert status == 1
    assert "differs: data: toy ffffffffffff, now toy" in out
    assert "differs: torch: 0.4.1, now" in out
    assert "differs: commit: 1111111111, now" in out
    correct, n = record.test_totals["correct"] + 1, record.test_totals["examples"]
    assert f"recorded was accuracy {100 * correct / n:.2f} % ({correct} of {n})" in out


def test_verdict_compares_correct_and_examples(finished, capsys):
    _, record = finished
    correct, n = record.test_totals["correct"], record.test_totals["examples"]
    assert evaluation.verdict(record, {"correct": correct, "examples": n}, changed=True) == 0
    others = (correct + 1, n, False, "no difference is known"), (correct, n + 1, True, "see the differences")
    for right, examples, changed, why in others:
        assert evaluation.verdict(record, {"correct": right, "examples": examples}, changed=changed) == 1
        assert why in capsys.readouterr().out


def test_record_at_another_rate_needs_the_data_of_the_training(finished, tmp_path, monkeypatch, capsys):
    folder, _ = finished
    path = changed(folder, tmp_path, lambda content: content["data"].update(fingerprint="f" * 64))
    status, _, line = call(monkeypatch, capsys, f"checkpoint={path}", f"results={tmp_path}/out", *options(folder))
    assert (status, line.count("\n")) == (2, 1)
    assert "is not that of the training" in line
    status, _, line = call(monkeypatch, capsys, f"checkpoint={path}", "rate=0.5", "length=8", *options(folder))
    assert status == 2
    assert "one at a time" in line


def test_precision_is_the_recorded_one(finished, tmp_path, monkeypatch, capsys):
    given = []

    class RecordingTrainer(pl.Trainer):
        def __init__(self, **arguments):
            given.append(arguments["precision"])
            super().__init__(**arguments)

    monkeypatch.setattr(pl, "Trainer", RecordingTrainer)
    folder, _ = finished
    path = changed(folder, tmp_path, lambda content: content.update(precision="bf16-mixed"))
    call(monkeypatch, capsys, f"checkpoint={path}", *options(folder))
    assert given == ["bf16-mixed"]


EVIL = {
    "a function": lambda c: c["model"].update(_target_="os.system"),
    "a function of ours": lambda c: c["model"].update(_target_="lra.io.atomic.atomic_write"),
    "a module of ours that imports another": lambda c: c["task"].update(_target_="data.download.shutil.rmtree"),
    "a class that is imported there": lambda c: c["model"].update(_target_="lra.io.strict_json.Path"),
    "deep inside": lambda c: c["model"]["mixer"].update(x=[{"_target_": "subprocess.run", "args": ["touch", "x"]}]),
    "positional arguments": lambda c: c["model"].update(_args_=[1]),
    "a resolver": lambda c: c["task"].update(variant="${oc.env:HOME}"),
}


@pytest.mark.parametrize("what", EVIL)
def test_foreign_code_is_not_called(what, finished, tmp_path, monkeypatch, capsys):
    def change(content):
        EVIL[what](content["config"])
        rehash(content)

    folder, _ = finished
    path = changed(folder, tmp_path, change)
    status, out, err = call(monkeypatch, capsys, f"checkpoint={path}", *options(folder))
    assert status == 2
    assert (out, err.count("\n")) == ("", 1)
    assert "not loaded" in err


def test_configured_classes_are_trusted():
    files = sorted(CONFIGS.rglob("*.yaml"))
    named = {name for path in files for name in re.findall(r"_target_: (\S+?)[,}]?$", path.read_text(), re.MULTILINE)}
    assert len(named) > 30
    assert [name for name in named if not evaluation.is_own_class(name)] == []


def broken(folder, tmp_path, kind):
    source, path = folder / "run/model.safetensors", tmp_path / "model.safetensors"
    raw = source.read_bytes()
    if kind != "absent":
        path.write_bytes({"cut": raw[:-100], "noise": b"\x80\x04N." * 50, "empty": b""}[kind])
    return path


@pytest.mark.parametrize("kind", ["absent", "cut", "noise", "empty"])
def test_broken_file_is_one_line(kind, finished, tmp_path, monkeypatch, capsys):
    folder, _ = finished
    path = broken(folder, tmp_path, kind)
    status, out, err = call(monkeypatch, capsys, f"checkpoint={path}", *options(folder))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"evaluate.py: {path}: ")


def test_weights_of_another_model_are_refused(finished, tmp_path, monkeypatch, capsys):
    def change(content):
        content["config"]["model"]["d_model"] *= 2
        rehash(content)

    folder, _ = finished
    path = changed(folder, tmp_path, change)
    status, _, err = call(monkeypatch, capsys, f"checkpoint={path}", *options(folder))
    assert (status, err.count("\n")) == (2, 1)
    assert "the weights are not those of the configured model" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["chekpoint=x"], "did you mean checkpoint?"),
        (["data.root=x"], "checkpoint is missing"),
        (["checkpoint=x", "seed"], "'seed': not a setting"),
        (["checkpoint=x", "accelerator=3"], "accelerator is 3"),
    ],
)
def test_wrong_option_is_one_line(words, line, monkeypatch, capsys):
    status, _, err = call(monkeypatch, capsys, *words)
    assert (status, err.count("\n")) == (2, 1)
    assert line in err


def test_a_carried_state_equals_reading_the_text_step_by_step(tmp_path, monkeypatch, capsys):
    place = tmp_path / "given" / "wikitext-2"
    place.mkdir(parents=True)
    for name in ("train", "valid", "test"):
        (place / f"wiki.{name}.tokens").write_text("the dog waits .\n" * 10)
    monkeypatch.setitem(language.SIZES, "wikitext2", (50, dict.fromkeys(("train", "val", "test"), 50)))
    source = f"data.source={place.parent}"
    words = ("task=wikitext2", "task.level=byte", "task.context=16", source, "training.steps=1")
    small_run(tmp_path, *words, "model=s4", "family.bidirectional=false", "family.norm=layer")
    given = (f"checkpoint={tmp_path / 'run'}", f"data.root={tmp_path / 'data'}", source, "accelerator=cpu")
    status, out, _ = call(monkeypatch, capsys, *given, "carry=true")
    assert status == 0
    model, task, _ = evaluation.load_model(str(tmp_path / "run"), root=str(tmp_path / "data"), source=str(place.parent))
    task.prepare_data()
    task.setup()
    begin, end = task.opened.manifest["parts"]["test"]
    tokens = torch.from_numpy(task.opened.arrays["x"][begin:end].copy()).long()
    model.setup_step()
    state, x, nats = model.default_state(1), torch.zeros(1, dtype=torch.int64), []
    for token in tokens:
        scores, state = model.step(x, state)
        nats.append(-scores[0].log_softmax(-1)[token].item())
        x = token[None] + 1
    perplexity = math.exp(sum(nats) / len(nats))
    assert float(re.search(r"perplexity ([\d.]+)", out)[1]) == pytest.approx(perplexity, abs=0.006)
    assert "with the state of the text before" in out
    assert "the inputs of listops do not follow" in refusal(tmp_path / "other", monkeypatch, capsys)


def refusal(folder, monkeypatch, capsys) -> str:
    small_run(folder)
    return call(monkeypatch, capsys, f"checkpoint={folder / 'run'}", *options(folder), "carry=true")[2]
