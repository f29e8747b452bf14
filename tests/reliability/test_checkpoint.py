"""Checkpoints: found damaged before they are used, never half written, never the cause of code being run."""

import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.tiny_run import Majority, Pool, StopsAt, go, losses
from lra.nn.classifier import Classifier
from lra.training import weights
from lra.training.checkpoint import Checkpoint, read_checkpoint, read_state, write_state
from lra.training.config import Hardware
from lra.training.learner import Learner

OFTEN = Hardware(accelerator="cpu", checkpoint_seconds=0.0)
ANY = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A folder of a run stopped at step 17 of 40, with its last checkpoint and the one before."""
    folder = tmp_path_factory.mktemp("run") / "stopped"
    StopsAt.at, StopsAt.seen = 17, 0
    assert go(folder, mixer=StopsAt, hardware=OFTEN).status == "interrupted"
    assert {p.name for p in folder.iterdir()} == {"last.ckpt", "previous.ckpt", "best-10.ckpt"}
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return go(tmp_path_factory.mktemp("run"))


@pytest.fixture
def folder(stopped, tmp_path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "copy"))


def same(a, b) -> bool:
    """Two states are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


def read_or_refuse(path: Path) -> object:
    """What is in the file, or None where it is refused as promised: ValueError, one line, the file's name first."""
    try:
        return read_checkpoint(path)
    except ValueError as error:
        said = str(error)
    assert said.startswith(f"{path}: not readable (")
    assert "\n" not in said
    return None


def check_damage(source: Path, place: Path, flips: list, cut: float) -> None:
    content = bytearray(source.read_bytes())
    for at, bit in flips:
        content[int(at * (len(content) - 1))] ^= 1 << bit
    del content[int(cut * len(content)) :]
    path = place / "last.ckpt"
    path.write_bytes(content)
    found = read_or_refuse(path)
    # what is read at all is what was written: the damage was to bytes that mean nothing
    assert found is None or same(found, read_checkpoint(source))


PLACES = st.tuples(st.floats(0, 1), st.integers(0, 7))


@settings(max_examples=100, **ANY)
@given(flips=st.lists(PLACES, min_size=1, max_size=3), cut=st.just(1.0) | st.floats(0, 1))
def test_flipped_bits_and_cut_files_are_found_out(stopped, tmp_path, flips, cut):
    check_damage(stopped / "last.ckpt", tmp_path, flips, cut)


@pytest.mark.nightly
@settings(max_examples=3000, **ANY)
@given(flips=st.lists(PLACES, min_size=1, max_size=3), cut=st.just(1.0) | st.floats(0, 1))
def test_thousands_of_flipped_bits_and_cut_files_are_found_out(stopped, tmp_path, flips, cut):
    check_damage(stopped / "last.ckpt", tmp_path, flips, cut)


class Trap:
    """Its unpickling would leave a trace."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["state_dict", "loops", "callbacks", "parts", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


def check_strangers(place: Path, raw: bytes, tree: object, how: str) -> None:
    """Bytes, pickles and zip files of a stranger are refused, and nothing in them is run."""
    path, trace = place / "last.ckpt", place / "trace"
    if how == "bytes":
        path.write_bytes(raw)
    elif how == "pickle":
        path.write_bytes(pickle.dumps([tree, Trap(trace)]))
    else:
        torch.save({"state_dict": tree, "loops": Trap(trace)} if how == "trap" else tree, path)
    assert read_or_refuse(path) is None
    assert not trace.exists()


STRANGERS = {"raw": st.binary(max_size=300), "tree": TREES, "how": st.sampled_from(["bytes", "pickle", "trap", "tree"])}


@settings(max_examples=100, **ANY)
@given(**STRANGERS)
def test_a_strangers_file_is_refused_and_nothing_in_it_runs(tmp_path, raw, tree, how):
    check_strangers(tmp_path, raw, tree, how)


@pytest.mark.nightly
@settings(max_examples=3000, **ANY)
@given(**STRANGERS)
def test_thousands_of_strangers_files_are_refused_and_nothing_in_them_runs(tmp_path, raw, tree, how):
    check_strangers(tmp_path, raw, tree, how)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """The weights of a finished run, with its record."""
    folder = tmp_path_factory.mktemp("run")
    assert go(folder, steps=4).status == "ok"
    return folder / "model.safetensors"


def check_weights(source: Path, place: Path, what: str, damage: object) -> None:
    """A file of weights with one damage is refused in one line, or has the weights that were written."""
    content = bytearray(source.read_bytes())
    if what == "header":
        length = int.from_bytes(content[:8], "little")
        text = json.dumps(json.loads(content[8 : 8 + length]) | damage).encode()
        content[: 8 + length] = len(text).to_bytes(8, "little") + text
    elif what == "flip":
        at, bit = damage
        content[int(at * (len(content) - 1))] ^= 1 << bit
    else:
        del content[int(damage * len(content)) :]
    path = place / "model.safetensors"
    path.write_bytes(content)
    said = ""
    try:
        found = weights.load(path)[0]
    except ValueError as error:
        said = str(error)
    assert said.startswith(f"{path}: ") if said else same(found, weights.load(source)[0])
    assert "\n" not in said


INNER = st.recursive(LEAVES.filter(lambda x: not isinstance(x, bytes)), lambda i: st.lists(i, max_size=3), max_leaves=4)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "I32", "F64", "BF16", "C64", "U8", "X"]) | INNER,
        "shape": st.lists(st.integers(-1, 99), max_size=3) | INNER,
        "data_offsets": st.lists(st.integers(-1, 999), min_size=2, max_size=2) | INNER,
    },
)
NAMED = st.sampled_from(["head.out.weight", "encoder.norm.weight", "x", "", "__metadata__"])
DAMAGE = st.one_of(
    st.tuples(st.just("flip"), PLACES),
    st.tuples(st.just("cut"), st.floats(0, 1)),
    st.tuples(st.just("header"), st.dictionaries(NAMED, ENTRIES | INNER, max_size=1)),
)


@settings(max_examples=100, **ANY)
@given(damage=DAMAGE)
def test_damaged_weights_are_found_out(kept, tmp_path, damage):
    check_weights(kept, tmp_path, *damage)


@pytest.mark.nightly
@settings(max_examples=3000, **ANY)
@given(damage=DAMAGE)
def test_thousands_of_damaged_weights_are_found_out(kept, tmp_path, damage):
    check_weights(kept, tmp_path, *damage)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_never_replaces_it(folder, whole, capsys):
    last = folder / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    StopsAt.at, StopsAt.seen = 1, 0  # stopped again after one step, which saves
    assert go(folder, mixer=StopsAt).steps_done == 17
    assert "last.ckpt: not readable" in capsys.readouterr().out
    for name in ("last.ckpt", "previous.ckpt"):
        read_checkpoint(folder / name)
    assert losses(go(folder)) == losses(whole)


def test_two_damaged_checkpoints_are_reported_and_the_run_begins_anew(folder, whole, capsys):
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / name).write_bytes(b"nothing")
    assert losses(go(folder)) == losses(whole)
    assert "no checkpoint can be read; the run begins anew" in capsys.readouterr().out


def test_damaged_best_weights_are_one_clear_line(folder):
    (folder / "best-10.ckpt").write_bytes(b"nothing")
    checkpoint = Checkpoint(folder)
    checkpoint.best = {"accuracy": 0.5, "step": 10}
    with pytest.raises(ValueError, match=r"best-10.ckpt: not readable \(.*; delete .* to train anew") as caught:
        checkpoint.best_weights()
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_model_is_one_clear_line(folder):
    learner = Learner(Classifier(Majority.spec, d_model=4, n_layers=1, mixer=Pool), optimizer={"lr": 0.1})
    with pytest.raises(ValueError, match=r"last.ckpt: of another version of this model \(model\."):
        Checkpoint(folder).newest(learner)


def test_the_best_weights_a_checkpoint_speaks_of_are_there_with_it(folder):
    for name in ("last.ckpt", "previous.ckpt"):
        (state,) = [s["best"] for s in read_checkpoint(folder / name)["callbacks"].values() if "best" in s]
        read_state(folder / f"best-{state['step']}.ckpt")


def test_weights_that_no_checkpoint_speaks_of_are_forgotten(tmp_path):
    """Validation is best at steps 6, 12 and 18; the checkpoint before the last one is of step 17."""
    StopsAt.at, StopsAt.seen = 18, 0
    assert go(tmp_path, steps=24, mixer=StopsAt, hardware=OFTEN).selection.step == 18
    assert {p.name for p in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt", "best-12.ckpt", "best-18.ckpt"}


REFUSALS = {
    errno.ENOSPC: "make room, or write elsewhere with runs=/some/dir",
    errno.EROFS: "write elsewhere with runs=",
}


@pytest.mark.parametrize("number", REFUSALS)
@pytest.mark.parametrize("when", ["write", "rename"])
def test_a_full_or_read_only_disk_is_one_line_and_what_was_there_stays(folder, whole, monkeypatch, number, when):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os if when == "write" else Path, "fsync" if when == "write" else "replace", refuse)
        with pytest.raises(OSError, match=REFUSALS[number]) as caught:
            go(folder, hardware=OFTEN)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert losses(go(folder)) == losses(whole)


def test_a_file_is_whole_under_its_name_or_not_there(tmp_path):
    path = tmp_path / "a.ckpt"
    write_state(path, {"x": torch.ones(3)})

    class Broken:
        def __reduce__(self):
            raise RuntimeError("cannot be written")

    with pytest.raises(RuntimeError, match="cannot be written"):
        write_state(path, {"x": Broken()})
    assert torch.equal(read_state(path)["x"], torch.ones(3))
    assert list(tmp_path.iterdir()) == [path]
