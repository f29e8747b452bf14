"""Records: written whole, read strictly, free of the machine they were made on."""

import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.any_json import JSON
from lra.io.redact import portable
from lra.paths import ROOT
from lra.records import migrations
from lra.records.record import Data, Point, Record, config_hash, parse, record_path
from lra.records.store import load, load_all, scan

GOLDEN = ROOT / "tests" / "golden" / "record.json"
TEMPLATE = json.loads(GOLDEN.read_text())


def make_record(**changes: object) -> Record:
    """The golden record with some fields changed."""
    if "config" in changes:
        changes = {"config_hash": config_hash(changes["config"]), **changes}
    return replace(load(GOLDEN), **changes)


def test_what_is_written_is_what_is_read(tmp_path):
    record = make_record(variant=["model.mixer.dt_min=0.01"], notes=["µ-batches × 4"])
    path = record.path(tmp_path)
    record.write(path)
    assert load(path) == record
    assert load_all(tmp_path) == [record]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_writing_twice_gives_the_same_bytes(tmp_path):
    make_record().write(tmp_path / "a.json")
    load(tmp_path / "a.json").write(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_paths_tell_cells_and_variants_apart(tmp_path):
    cell = {"scale": "mini", "model": "s4", "task": "pathx", "seed": 3}
    assert record_path(tmp_path, **cell) == tmp_path / "mini/s4/pathx/3.json"
    one, other = (record_path(tmp_path, **cell, variant=[v]) for v in ("a=1", "a=2"))
    assert one != other
    assert one.name.startswith("3-")
    assert len(one.stem) == len("3-") + 8
    assert record_path(tmp_path, **cell, variant=["a=1", "b=2"]) == record_path(
        tmp_path, **cell, variant=["b=2", "a=1"]
    )


def test_config_hash_ignores_the_order_of_keys_and_sees_every_value():
    assert config_hash({"a": 1, "b": {"c": 2, "d": 3}}) == config_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})
    with pytest.raises(ValueError, match=r"config.lr is nan"):
        config_hash({"lr": math.nan})


def test_curve_points_that_are_not_finite_become_null(tmp_path):
    record = make_record(curve=[Point(step=1, train_loss=np.float32(math.nan), val_loss=math.inf, lr=0.1)])
    record.write(tmp_path / "r.json")
    assert load(tmp_path / "r.json").curve == [Point(step=1, lr=0.1)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "../escape"}, "model is '../escape'"),
        ({"seed": -1}, "seed is -1"),
        ({"test_accuracy": 0.5}, "82 of 200 is another number"),
        ({"test_correct": 300}, "test_correct is 300"),
        ({"status": "interrupted", "reason": "killed", "n_test": None}, "come together"),
        ({"val_accuracy": 40.0}, "val_accuracy is 40.0"),
        ({"last_test_accuracy": 1.01}, "last_test_accuracy is 1.01"),
        ({"status": "diverged"}, "says why"),
        ({"finished": None}, "needs test_accuracy"),
        ({"test_accuracy": None, "test_correct": None, "n_test": None}, "needs test_accuracy"),
        ({"started": "yesterday"}, "started is 'yesterday'"),
        ({"config_hash": "f" * 64}, "the config hashes to"),
        ({"train_seconds": math.nan}, "train_seconds is nan"),
        ({"train_seconds": -1.0}, "train_seconds is -1.0"),
        ({"flops": -1}, "flops is -1"),
        ({"curve": [Point(step=2), Point(step=2)]}, "steps must increase"),
        ({"data": Data(kind="toy", fingerprint="", counts={}, chance=0.0)}, "data.chance is 0.0"),
        ({"data": Data(kind="toy", fingerprint="", counts={"test": -1}, chance=0.5)}, "data.counts is {'test': -1}"),
    ],
)
def test_a_record_that_contradicts_itself_cannot_be_made(changes, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        make_record(**changes)


def test_the_ends_of_what_can_be_are_part_of_it():
    data = Data(kind="toy", fingerprint="", counts={"train": 0, "test": 200}, chance=1.0)
    make_record(val_accuracy=1.0, test_accuracy=0.0, test_correct=0, data=data, steps_done=0, flops=0, epochs=0.0)
    make_record(val_accuracy=0.0, test_accuracy=1.0, test_correct=200, parameters=0, train_seconds=0.0)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("task"), "task is missing"),
        (lambda c: c.update(colour="red"), "'colour' is not a field of a Record"),
        (lambda c: c.update(status="fine"), "status is 'fine': one of running, ok, diverged, oom, interrupted"),
        (lambda c: c.update(seed=True), "seed is True: a whole number"),
        (lambda c: c.update(seed="0"), "seed is '0': a whole number"),
        (lambda c: c["data"].update(kind="real"), "data.kind is 'real': one of official, generated, subset, toy"),
        (lambda c: c["data"]["counts"].update(test="many"), "data.counts.test is 'many'"),
        (lambda c: c["curve"][0].update(lr=[]), r"curve\[0\].lr is \[\]: a finite number"),
        (lambda c: c.update(schema=migrations.SCHEMA + 1), "newer than"),
        (lambda c: c.update(schema=0), "schema is 0"),
        (lambda c: c["config"].update(seed=1), "the config hashes to"),
    ],
)
def test_a_damaged_record_is_one_clear_line(tmp_path, edit, message):
    path = tmp_path / "r.json"
    make_record().write(path)
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"r.json: .*{message}") as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"9" * 5000,
        b"[" * 100_000,
        b'{"schema": NaN}',
        b'{"schema": 1, "schema": 1}',
        b'{"schema": 1, "config": ' + b'{"a":' * 400 + b"1" + b"}" * 400 + b"}",
    ],
)
def test_a_file_that_is_no_record_is_one_clear_line(tmp_path, raw):
    path = tmp_path / "r.json"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"r\.json: ") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json: cannot be read \(No such file"):
        load(tmp_path / "none.json")


def places(node: object, at: tuple = ()) -> list[tuple]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [at] + [place for key, child in inner for place in places(child, (*at, key))]


def read_or_refuse(raw: bytes, path: Path) -> Record | None:
    """The record, or None where it is refused as promised: ValueError, one line, the file's name first."""
    path.write_bytes(raw)
    try:
        return load(path)
    except Exception as error:
        promised = type(error) is ValueError and str(error).startswith(f"{path}: ") and "\n" not in str(error)
        if not promised:
            raise AssertionError(f"refused with {error!r}") from error
        return None


FUZZ = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def check_value_anywhere(folder: Path, place: tuple, value: object) -> None:
    """A record with `value` put at `place` is read exactly as it says, or refused as promised."""
    content = json.loads(json.dumps(TEMPLATE))
    if place:
        node = content
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = value
    else:
        content = value
    record = read_or_refuse(json.dumps(content).encode(), folder / "r.json")
    assert record is None or asdict(record) == content


@settings(max_examples=300, **FUZZ)
@given(place=st.sampled_from(places(TEMPLATE)), value=JSON)
def test_any_value_anywhere_is_read_exactly_or_refused_in_one_line(tmp_path, place, value):
    check_value_anywhere(tmp_path, place, value)


@pytest.mark.nightly
@settings(max_examples=12_000, **FUZZ)
@given(place=st.sampled_from(places(TEMPLATE)), value=JSON)
def test_ten_thousand_values_anywhere_are_read_exactly_or_refused(tmp_path, place, value):
    check_value_anywhere(tmp_path, place, value)


@settings(max_examples=300, **FUZZ)
@given(
    flips=st.lists(st.tuples(st.integers(0, GOLDEN.stat().st_size - 1), st.integers(0, 255)), max_size=4),
    size=st.integers(0, GOLDEN.stat().st_size),
)
def test_any_damage_to_the_bytes_is_harmless_or_refused_in_one_line(tmp_path, flips, size):
    raw = bytearray(GOLDEN.read_bytes())
    for position, byte in flips:
        raw[position] = byte
    read_or_refuse(bytes(raw), tmp_path / "r.json")
    record = read_or_refuse(bytes(raw[:size]), tmp_path / "r.json")
    assert record is None or size >= len(raw) - 1


@settings(max_examples=200, **FUZZ)
@given(raw=st.binary(max_size=200))
def test_any_bytes_in_a_folder_are_reported_not_raised(tmp_path, raw):
    (tmp_path / "r.json").write_bytes(raw)
    [(_, outcome)] = scan(tmp_path)
    assert isinstance(outcome, ValueError)


def test_older_records_are_migrated_step_by_step(monkeypatch):
    def rename(content: dict) -> dict:
        content["parameters"] = content.pop("n_parameters")
        return content

    monkeypatch.setattr(migrations, "SCHEMA", 3)
    monkeypatch.setattr(migrations, "MIGRATIONS", {1: lambda c: {**c, "title": c["model"].upper()}, 2: rename})
    old = {k: v for k, v in TEMPLATE.items() if k not in ("title", "parameters")} | {"n_parameters": 7, "schema": 1}
    record = parse(json.dumps(old), where="old.json")
    assert (record.title, record.parameters, record.schema) == ("S4", 7, 3)
    del old["model"]
    with pytest.raises(ValueError, match=r"old\.json: cannot be brought from schema 1 to 2"):
        parse(json.dumps(old), where="old.json")


def test_every_older_schema_has_its_migration():
    assert sorted(migrations.MIGRATIONS) == list(range(1, migrations.SCHEMA))


def test_a_record_in_the_wrong_place_is_named(tmp_path):
    make_record(seed=1).write(tmp_path / "mini/s4/listops/2.json")
    with pytest.raises(ValueError, match=r"2\.json: holds the record of mini/s4/listops/1\.json"):
        load_all(tmp_path)


def test_records_come_in_the_order_of_their_paths(tmp_path):
    for seed in (3, 1, 5, 0, 4, 2):
        make_record(seed=seed).write(make_record(seed=seed).path(tmp_path))
    assert [r.seed for r in load_all(tmp_path)] == [0, 1, 2, 3, 4, 5]


def test_a_failed_write_leaves_the_older_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    make_record().write(path)
    before = path.read_bytes()

    def disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        make_record(title="another").write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_numpy_and_torch_scalars_are_written_as_numbers(tmp_path):
    record = make_record(train_seconds=np.float32(1.5), parameters=np.int64(7), peak_memory_mib=torch.tensor(2.5))
    record.write(tmp_path / "r.json")
    read = load(tmp_path / "r.json")
    assert (read.train_seconds, read.parameters, read.peak_memory_mib) == (1.5, 7, 2.5)
    assert type(read.parameters) is int
    with pytest.raises(TypeError, match="cannot be part of"):
        make_record(notes=[np.ones(2)]).write(tmp_path / "r.json")


def test_secrets_and_absolute_paths_never_reach_a_file(tmp_path, monkeypatch):
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
