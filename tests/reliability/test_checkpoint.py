"""Checkpoints and weights: damage is detected, writes are atomic, and reading a file runs no code from it."""

import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st

from helpers.any_json import JSON
from helpers.tiny_run import Majority, Pool, StopsAt, losses, train
from lra.nn.classifier import Classifier
from lra.training import weights
from lra.training.checkpoint import Checkpoint, read_checkpoint, read_state, write_state
from lra.training.config import Hardware
from lra.training.learner import Learner

SAVE_EVERY_STEP = Hardware(accelerator="cpu", checkpoint_seconds=0.0)
FUZZ = pytest.mark.parametrize("examples", [100, pytest.param(3000, marks=pytest.mark.nightly)])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """The folder of a run stopped at step 17 of 40, with its last two checkpoints."""
    folder = tmp_path_factory.mktemp("run") / "stopped"
    StopsAt.at, StopsAt.seen = 17, 0
    assert train(folder, mixer=StopsAt, hardware=SAVE_EVERY_STEP).status == "interrupted"
    assert {p.name for p in folder.iterdir()} == {"last.ckpt", "previous.ckpt", "best-10.ckpt"}
    return folder


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("run"))


@pytest.fixture
def folder(stopped, tmp_path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "copy"))


def equal(a, b) -> bool:
    """True if two nested states are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and (a == b or a != a)


def read_or_none(read, path: Path) -> object:
    """The content of a file, or None if it is refused with a one-line ValueError that starts with its path."""
    try:
        return read(path)
    except ValueError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return None


def flip(content: bytearray, at: float, bit: int) -> None:
    content[int(at * (len(content) - 1))] ^= 1 << bit


BIT = st.tuples(st.floats(0, 1), st.integers(0, 7))


@FUZZ
def test_damaged_checkpoint_is_detected(examples, fuzz, stopped, tmp_path):
    source, path = stopped / "last.ckpt", tmp_path / "last.ckpt"

    def check(flips, cut):
        content = bytearray(source.read_bytes())
        for at, bit in flips:
            flip(content, at, bit)
        del content[int(cut * len(content)) :]
        path.write_bytes(content)
        state = read_or_none(read_checkpoint, path)
        # a file that can still be read was damaged only in bytes without meaning
        assert state is None or equal(state, read_checkpoint(source))

    fuzz(check, examples, flips=st.lists(BIT, min_size=1, max_size=3), cut=st.just(1.0) | st.floats(0, 1))


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


KEYS = st.sampled_from(["state_dict", "loops", "callbacks", "parts", "x"])
STATES = st.dictionaries(KEYS, JSON | st.binary(max_size=4), max_size=4) | JSON


@FUZZ
def test_foreign_checkpoint_runs_no_code(examples, fuzz, tmp_path):
    path, trace = tmp_path / "last.ckpt", tmp_path / "trace"

    def check(raw, tree, kind):
        if kind == "bytes":
            path.write_bytes(raw)
        elif kind == "pickle":
            path.write_bytes(pickle.dumps([tree, Trap(trace)]))
        else:
            torch.save({"state_dict": tree, "loops": Trap(trace)} if kind == "trap" else tree, path)
        assert read_or_none(read_checkpoint, path) is None
        assert not trace.exists()

    kinds = st.sampled_from(["bytes", "pickle", "trap", "tree"])
    fuzz(check, examples, raw=st.binary(max_size=300), tree=STATES, kind=kinds)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The weights of a finished run, next to its record."""
    folder = tmp_path_factory.mktemp("run")
    assert train(folder, steps=4).status == "ok"
    return folder / "model.safetensors"


NAMES = st.sampled_from(["head.out.weight", "encoder.norm.weight", "x", "", "__metadata__"])
ENTRIES = st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), JSON, max_size=3)
DAMAGE = st.one_of(
    st.tuples(st.just("flip"), BIT),
    st.tuples(st.just("cut"), st.floats(0, 1)),
    st.tuples(st.just("header"), st.dictionaries(NAMES, ENTRIES | JSON, max_size=1)),
)


@FUZZ
def test_damaged_weights_are_detected(examples, fuzz, finished, tmp_path):
    path = tmp_path / "model.safetensors"

    def check(damage):
        kind, value = damage
        content = bytearray(finished.read_bytes())
        if kind == "header":
            length = int.from_bytes(content[:8], "little")
            text = json.dumps(json.loads(content[8 : 8 + length]) | value).encode()
            content[: 8 + length] = len(text).to_bytes(8, "little") + text
        elif kind == "flip":
            flip(content, *value)
        else:
            del content[int(value * len(content)) :]
        path.write_bytes(content)
        state = read_or_none(lambda p: weights.load(p)[0], path)
        assert state is None or equal(state, weights.load(finished)[0])

    fuzz(check, examples, damage=DAMAGE)


def test_damaged_checkpoint_falls_back_to_previous(folder, uninterrupted, capsys):
    last = folder / "last.ckpt"
    content = bytearray(last.read_bytes())
    flip(content, 0.5, 0)
    last.write_bytes(content)
    StopsAt.at, StopsAt.seen = 1, 0  # stops again after one step, and saves
    assert train(folder, mixer=StopsAt).steps_done == 17
    assert f"{last}: " in capsys.readouterr().out
    # the damaged file has not replaced the good one
    for name in ("last.ckpt", "previous.ckpt"):
        read_checkpoint(folder / name)
    assert losses(train(folder)) == losses(uninterrupted)


def test_two_damaged_checkpoints_restart_the_run(folder, uninterrupted, capsys):
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / name).write_bytes(b"nothing")
    assert losses(train(folder)) == losses(uninterrupted)
    assert f"{folder}: no " in capsys.readouterr().out


def test_damaged_best_weights_are_one_line(folder):
    (folder / "best-10.ckpt").write_bytes(b"nothing")
    checkpoint = Checkpoint(folder)
    checkpoint.best = {"accuracy": 0.5, "step": 10}
    with pytest.raises(ValueError, match=r"best-10.ckpt: .*; .*delete ") as error:
        checkpoint.best_weights()
    assert "\n" not in str(error.value)


def test_checkpoint_of_another_model_is_refused(folder):
    learner = Learner(Classifier(Majority.spec, d_model=4, n_layers=1, mixer=Pool), optimizer={"lr": 0.1})
    with pytest.raises(ValueError, match=r"last.ckpt: .*\(model\."):
        Checkpoint(folder).newest(learner)


def test_only_needed_best_weights_are_kept(tmp_path):
    """Validation is best at steps 6, 12 and 18; the checkpoint before the last one is from step 17."""
    StopsAt.at, StopsAt.seen = 18, 0
    assert train(tmp_path, steps=24, mixer=StopsAt, hardware=SAVE_EVERY_STEP).selection.step == 18
    assert {p.name for p in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt", "best-12.ckpt", "best-18.ckpt"}
    for name in ("last.ckpt", "previous.ckpt"):
        (best,) = [s["best"] for s in read_checkpoint(tmp_path / name)["callbacks"].values() if "best" in s]
        read_state(tmp_path / f"best-{best['step']}.ckpt")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "replace")], ids=["write", "rename"])
def test_failed_save_is_one_line_and_loses_nothing(folder, uninterrupted, monkeypatch, number, owner, call):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(owner, call, fail)
        with pytest.raises(OSError, match=r"runs=/some/dir") as error:
            train(folder, hardware=SAVE_EVERY_STEP)
    message = str(error.value)
    assert str(folder) in message
    assert ("make room" in message) == (number == errno.ENOSPC)
    assert "\n" not in message
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert losses(train(folder)) == losses(uninterrupted)


def test_failed_write_keeps_the_old_checkpoint(tmp_path):
    path = tmp_path / "a.ckpt"
    write_state(path, {"x": torch.ones(3)})

    class Broken:
        def __reduce__(self):
            raise RuntimeError("cannot be written")

    with pytest.raises(RuntimeError, match="cannot be written"):
        write_state(path, {"x": Broken()})
    assert torch.equal(read_state(path)["x"], torch.ones(3))
    assert list(tmp_path.iterdir()) == [path]
