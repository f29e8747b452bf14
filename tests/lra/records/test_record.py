"""Records: written atomically, read strictly, without traces of the machine they were made on."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from helpers.any_json import JSON
from helpers.records import replace, scored
from lra.io.redact import portable
from lra.paths import ROOT
from lra.records import migrations
from lra.records.migrations import SCHEMA
from lra.records.record import Point, Record, config_hash, parse, record_path
from lra.records.store import load, load_all, scan

GOLDEN = ROOT / "tests" / "golden" / "record.json"
TEMPLATE = json.loads(GOLDEN.read_text())


def make_record(**changes: object) -> Record:
    """The golden record with some fields changed."""
    if "config" in changes:
        changes = {"config_hash": config_hash(changes["config"]), **changes}
    return replace(load(GOLDEN), **changes)


def test_written_record_is_read_back(tmp_path):
    record = make_record(variant=["model.mixer.dt_min=0.01"], notes=["µ-batches × 4"])
    path = record.path(tmp_path)
    record.write(path)
    assert load(path) == record
    assert load_all(tmp_path) == [record]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_committed_records_serialise_byte_for_byte():
    for path in (GOLDEN, *sorted((ROOT / "results/runs").rglob("*.json"))):
        committed, text = path.read_text(encoding="utf-8"), load(path).text()
        if (content := json.loads(committed))["schema"] < SCHEMA:
            added = {"flops": None, "kernels": [], "code": None}
            assert as_before(json.loads(text)) == {**added, **content, "schema": SCHEMA}, path
        else:
            assert text == committed, path


def as_before(content: dict) -> dict:
    """A classification with the field names of schema 4."""
    accuracies = {"trivial": "chance", "val_score": "val_accuracy", "train_score": "train_accuracy"}
    assert content.pop("objective") == "classification"
    totals = content.pop("test_totals") or {"correct": None, "examples": None}
    content |= {"test_accuracy": content.pop("test_score"), "last_test_accuracy": None}
    content |= {"test_correct": totals["correct"], "n_test": totals["examples"]}
    for example in content["examples"]:
        assert example.pop("forecast") is None
    for part in (content, content["data"], *content["curve"]):
        part |= {old: part.pop(new) for new, old in accuracies.items() if new in part}
    return content


def test_paths_distinguish_runs_and_variants(tmp_path):
    run = {"scale": "mini", "model": "s4", "task": "pathx", "seed": 3}
    assert record_path(tmp_path, **run) == tmp_path / "mini/s4/pathx/3.json"
    one, other = (record_path(tmp_path, **run, variant=[v]) for v in ("a=1", "a=2"))
    assert one != other
    assert one.name.startswith("3-")
    assert len(one.stem) == len("3-") + 8
    both = [record_path(tmp_path, **run, variant=variant) for variant in (["a=1", "b=2"], ["b=2", "a=1"])]
    assert both[0] == both[1]


def test_config_hash_ignores_only_key_order():
    assert config_hash({"a": 1, "b": {"c": 2, "d": 3}}) == config_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})
    with pytest.raises(ValueError, match=r"config.lr is nan"):
        config_hash({"lr": math.nan})


KERNEL = {
    "layer": 0,
    "feature": 1,
    "length": 9,
    "starts": [0, 4],
    "before": [[0, 1], [0, 2]],
    "after": [[0, 1], [0, 2]],
}
DATA = {"kind": "toy", "fingerprint": "", "counts": {"test": 200}, "trivial": 0.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "../escape"}, "model\n.*match pattern"),
        ({"seed": -1}, "seed\n.*greater than or equal to 0"),
        ({"flops": "1"}, "flops\n.*integer"),
        ({"notes": [np.ones(2)]}, "notes.0\n.*string"),
        ({"val_score": 40.0}, "val_score is 40.0: a share is at most 1"),
        ({"train_seconds": math.nan}, "train_seconds\n.*finite"),
        ({"train_seconds": -1.0}, "train_seconds\n.*greater"),
        ({"started": "yesterday"}, "started\n.*match pattern"),
        ({"config_hash": "f" * 64}, "the config hashes to"),
        ({"test_score": 0.5}, "test_score is 0.5: differs from 0.41"),
        ({"test_totals": {"correct": 300, "examples": 200}}, "300 correct of 200"),
        ({"test_totals": {"right": 3, "examples": 200}}, "totals are right, examples; expected correct, examples"),
        ({"status": "interrupted", "reason": "killed", "test_totals": None}, "must be given with it"),
        ({"status": "diverged"}, "reason is None"),
        ({"finished": None}, "needs test_score"),
        ({"test_score": None, "test_totals": None}, "needs test_score"),
        ({"data": DATA | {"trivial": 0.0}}, "data.trivial\n.*greater than 0"),
        ({"data": DATA | {"counts": {"test": -1}}}, "data.counts.test\n"),
        ({"curve": [Point(step=2), Point(step=2)]}, "must increase"),
        ({"examples": [{"label": 0, "predicted": 0, "probability": 1.1}]}, "examples.0.probability\n"),
        ({"examples": [{"label": 0, "predicted": 0, "picture": "a b"}]}, "examples.0.picture\n.*match pattern"),
        ({"kernels": [KERNEL | {"starts": [0, 0]}]}, "kernels.0.starts\n.*must increase"),
        ({"kernels": [KERNEL | {"after": [[0.0], [1.0]]}]}, "kernels.0.after\n.*two lists of 2 values"),
    ],
)
def test_contradictory_records_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_record(**changes)


def test_boundary_values_are_accepted():
    data = {"data": DATA | {"trivial": 1.0, "counts": {"train": 0, "test": 200}}, "kernels": [KERNEL]}
    make_record(val_score=1.0, **scored(0, 200), steps_done=0, flops=0, epochs=0.0, **data)
    make_record(val_score=0.0, **scored(200, 200), parameters=0, train_seconds=0.0)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("task"), "task is missing"),
        (lambda c: c["git"].pop("dirty"), "git.dirty is missing"),
        (lambda c: c.update(colour="red"), "colour is not a known field"),
        (lambda c: c.update(model="../escape"), r"model is '\.\./escape': string should match pattern"),
        (lambda c: c.update(status="fine"), "status is 'fine': input should be 'running', 'ok', 'diverged'"),
        (lambda c: c.update(seed="0"), "seed is '0': input should be a valid integer"),
        (lambda c: c["data"].update(kind="real"), "data.kind is 'real': input should be 'official'"),
        (lambda c: c["data"]["counts"].update(test="many"), "data.counts.test is 'many'"),
        (lambda c: c["curve"][0].update(lr=[]), r"curve\[0\].lr is \[\]: input should be a valid number"),
        (lambda c: c.update(test_totals={"correct": 300, "examples": 200}), "300 correct of 200"),
        (lambda c: c.update(schema=SCHEMA + 1), "newer than .*; hint: update"),
        (lambda c: c.update(schema=0), "schema is 0"),
        (lambda c: c["config"].update(seed=1), "the config hashes to"),
    ],
)
def test_damaged_record_gives_one_line(tmp_path, edit, message):
    path = tmp_path / "r.json"
    make_record().write(path)
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"r.json: .*{message}.*; hint: restore the file") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def places(node: object, at: tuple = ()) -> list[tuple]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [at] + [place for key, child in inner for place in places(child, (*at, key))]


def read_or_refuse(raw: bytes, path: Path) -> Record | None:
    """The record, or None if it is refused by a ValueError of one line that starts with the file's name."""
    path.write_bytes(raw)
    try:
        return load(path)
    except Exception as error:
        if not (type(error) is ValueError and str(error).startswith(f"{path}: ") and "\n" not in str(error)):
            raise AssertionError(f"refused with {error!r}") from error
        return None


NOT_RECORDS = [b"", b"{", b"\xff\xfe", b"[]", b"null", b"9" * 5000, b"[" * 100_000, b'{"schema": NaN}']
NOT_RECORDS += [b'{"schema": 1, "schema": 1}', b'{"schema": 1, "config": ' + b'{"a":' * 400 + b"1" + b"}" * 401]


@pytest.mark.parametrize("raw", NOT_RECORDS)
def test_other_files_give_one_line(tmp_path, raw):
    assert read_or_refuse(raw, tmp_path / "r.json") is None
    with pytest.raises(ValueError, match=r"none\.json: cannot be read \(No such file"):
        load(tmp_path / "none.json")


def as_floats(value: object) -> object:
    # a whole number in a float field is read as the nearest float
    return json.loads(json.dumps(value), parse_int=float)


@pytest.mark.parametrize("examples", [300, pytest.param(12_000, marks=pytest.mark.nightly)])
def test_any_value_is_read_exactly_or_refused(examples, fuzz, tmp_path):
    def check(place: tuple, value: object) -> None:
        content = {"": json.loads(json.dumps(TEMPLATE))}
        node = content
        for key in ("", *place)[:-1]:
            node = node[key]
        node[("", *place)[-1]] = value
        record = read_or_refuse(json.dumps(content[""]).encode(), tmp_path / "r.json")
        assert record is None or as_floats({"schema": SCHEMA, **record.model_dump()}) == as_floats(content[""])

    fuzz(check, examples, place=st.sampled_from(places(TEMPLATE)), value=JSON)


def test_damaged_bytes_give_one_line(fuzz, tmp_path):
    golden = GOLDEN.read_bytes()

    def check(flips: list[tuple[int, int]], size: int) -> None:
        raw = bytearray(golden)
        for position, byte in flips:
            raw[position] = byte
        read_or_refuse(bytes(raw), tmp_path / "r.json")
        record = read_or_refuse(bytes(raw[:size]), tmp_path / "r.json")
        assert record is None or size >= len(raw) - 1

    position = st.integers(0, len(golden) - 1)
    fuzz(check, 300, flips=st.lists(st.tuples(position, st.integers(0, 255)), max_size=4), size=position)


def test_scan_reports_any_bytes_as_an_error(fuzz, tmp_path):
    def check(raw: bytes) -> None:
        (tmp_path / "r.json").write_bytes(raw)
        [(_, outcome)] = scan(tmp_path)
        assert isinstance(outcome, ValueError)

    fuzz(check, 200, raw=st.binary(max_size=200))


def test_old_records_migrate_step_by_step(monkeypatch):
    def rename(content: dict) -> dict:
        content["parameters"] = content.pop("n_parameters")
        return content

    assert sorted(migrations.MIGRATIONS) == list(range(1, SCHEMA))
    monkeypatch.setattr(migrations, "SCHEMA", 3)
    monkeypatch.setattr(migrations, "MIGRATIONS", {1: lambda c: {**c, "title": c["model"].upper()}, 2: rename})
    old = {k: v for k, v in TEMPLATE.items() if k not in ("title", "parameters")} | {"n_parameters": 7, "schema": 1}
    record = parse(json.dumps(old), where="old.json")
    assert (record.title, record.parameters) == ("S4", 7)
    del old["model"]
    with pytest.raises(ValueError, match=r"old\.json: cannot be converted from schema 1 to 2"):
        parse(json.dumps(old), where="old.json")


def test_misplaced_record_is_named(tmp_path):
    make_record(seed=1).write(tmp_path / "mini/s4/listops/2.json")
    with pytest.raises(ValueError, match=r"2\.json: has the record of mini/s4/listops/1\.json"):
        load_all(tmp_path)


def test_records_are_sorted_by_path(tmp_path):
    for seed in (3, 1, 5, 0, 4, 2):
        make_record(seed=seed).write(make_record(seed=seed).path(tmp_path))
    assert [r.seed for r in load_all(tmp_path)] == [0, 1, 2, 3, 4, 5]


def test_measured_numbers_become_plain_json(tmp_path):
    curve = [Point(step=1, train_loss=math.nan, val_loss=math.inf, lr=np.float32(0.5))]
    make_record(curve=curve, train_seconds=np.float32(1.5), peak_memory_mib=torch.tensor(2.5)).write(
        tmp_path / "r.json"
    )
    record = load(tmp_path / "r.json")
    assert (record.train_seconds, record.peak_memory_mib) == (1.5, 2.5)
    assert record.curve == [Point(step=1, lr=0.5)]


def test_secrets_and_absolute_paths_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "planted-secret-1234")
    monkeypatch.setenv("HOME", "/home/somebody")
    reason = "no space at /home/somebody/data\n  with key planted-secret-1234 in /mnt/big/disk/x.bin"
    record = make_record(status="interrupted", reason=reason, command="python /srv/lra/scripts/train.py")
    record.write(tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text()
    for leak in ("planted", "somebody", "/mnt", "/srv"):
        assert leak not in text
    assert load(tmp_path / "r.json").reason == "no space at ~/data with key [secret] in …/x.bin"
    with pytest.raises(ValueError, match="absolute path or a secret"):
        make_record(config={"root": "/mnt/big/disk"}).write(tmp_path / "s.json")
    make_record(config=portable({"root": "/mnt/big/disk"})).write(tmp_path / "s.json")
