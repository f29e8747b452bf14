"""Any command line and any value of a configuration: understood, or refused in one line; never a stack trace."""

import contextlib
import functools
import io
import sys
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from helpers.compose import compose, names
from lra.config.overrides import check_command_line, keys
from lra.launch import job
from lra.training.learner import Learner
from scripts import train

ANY = {"deadline": None, "suppress_health_check": list(HealthCheck)}
MODELS = names("model")


class ReachedError(BaseException):
    """Everything was understood: training would begin."""


def one_line_or_reached(call) -> str:
    """What was said on the way to a refusal of one line with status 2; "" where training would have begun."""
    said = io.StringIO()
    status = None
    with contextlib.redirect_stderr(said):
        try:
            call()
        except ReachedError:
            return ""
        except SystemExit as stop:
            status = stop.code
    lines = said.getvalue().strip().splitlines()
    assert status == 2, said.getvalue()
    assert lines[-1].startswith("train.py: ")
    assert len(lines[-1]) > len("train.py: ")
    assert "Traceback" not in said.getvalue()
    return lines[-1]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to run in, where everything is as in a real run but training itself."""

    def begin(cell, *, data, model, optimizer, training, hardware, **rest):
        learner = Learner(model, optimizer=optimizer, schedule=training.schedule, warmup=training.warmup)
        learner.configure_optimizers()
        raise ReachedError

    monkeypatch.setattr(job, "run_training", begin)
    # an error nobody foresaw is to be seen
    monkeypatch.setenv("LRA_TRACE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


NUMBERS = [-(10**9), -1, 0, 1, 2, 3, 7, 8, -0.5, 0.5, 1.5, 1e-300, 1e300, float("nan"), float("inf")]
OTHERS = [None, True, False, "", "abc", "auto", "batch", "é\n", "${nothing}", "${seed}", "???", [], [1, 2], [None], {}]
JUNK = st.sampled_from([*NUMBERS, *OTHERS])
TASKS = ["listops", "image", "text", "pathfinder"]
# names of classes are code, chosen by whoever writes them
CODE = ("_target_", "_partial_")


@functools.cache
def base(task: str, model: str):
    small = ["scale=smoke", "data.source=toy", "wandb.mode=disabled", "data.root=data", "results=results", "runs=runs"]
    words = [f"task={task}", f"model={model}", *small]
    cfg = compose(*words)
    known = [k for k in keys(OmegaConf.to_container(cfg)) if not k.endswith(CODE) and "root" not in k]
    return words, cfg, sorted(known)


def check_value(case: tuple[str, str, float, object]) -> None:
    task, model, at, value = case
    words, cfg, known = base(task, model)
    key = known[int(at * len(known))]
    cfg = cfg.copy()
    OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    with torch.random.fork_rng():
        said = one_line_or_reached(
            lambda: job.one(cfg, choices={"task": task, "model": model, "scale": "smoke"}, overrides=[*words])
        )
    assert isinstance(said, str)


CASES = st.tuples(
    st.sampled_from(TASKS), st.sampled_from(MODELS), st.floats(0, 1, exclude_max=True, allow_subnormal=False), JUNK
)


@settings(max_examples=40, **ANY)
@given(case=CASES)
def test_any_value_of_any_option_is_understood_or_one_line(place, case):
    check_value(case)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@settings(max_examples=800, **ANY)
@given(case=CASES)
def test_thousands_of_values_are_understood_or_one_line(place, case):
    check_value(case)


SECTIONS = [
    "task",
    "model",
    "scale",
    "trainer",
    "recipe",
    "family",
    "optimizer",
    "~training",
    "task@x",
    "hydra.run.dir",
]
SCALARS = [
    "seed",
    "model.d_model",
    "model.mixer.dt_min",
    "training.steps",
    "wandb.mode",
    "+new",
    "++model.x",
    "a.b",
    "é",
]
PLAIN = ["listops", "s4", "smoke", "mini", "cpu", "1", "1e3", "null", "nan", "", "a b", "\\", "'", '"a']
SYNTAX = ["[1,2]", "{a:1}", "s4,s4d", "range(1,3)", "choice(a,b)", "glob(*)", "${x}", "${oc.env:HOME}", "["]
KEYS, VALUES = st.sampled_from([*SECTIONS, *SCALARS]), st.sampled_from([*PLAIN, *SYNTAX]) | st.text(max_size=6)
WORDS = st.one_of(
    st.tuples(KEYS, VALUES).map("=".join), st.text(max_size=8), st.sampled_from(["-m", "--multirun", "=", "a=b=c"])
)


def check_line(arguments: list[str]) -> None:
    # Python hands no command line with a null character or half a character to a program; help is no refusal;
    # and where Hydra is told to make a folder, it is to be made below this one
    arguments = [a for a in arguments if a.isprintable() and a[:1] != "-" and "=/" not in a] + [
        a for a in arguments if a in ("-m", "--multirun")
    ]
    with mock.patch.object(sys, "argv", ["train.py", *arguments]):
        one_line_or_reached(lambda: reach(arguments))


def reach(arguments: list[str]) -> None:
    """As scripts/train.py does, to the point where a cell is begun."""
    check_command_line(arguments)
    train.main()


@pytest.fixture
def before(tmp_path, monkeypatch):
    """A folder where Hydra does all it does, and no cell is begun."""

    def begin(cfg, *, choices, overrides):
        raise ReachedError

    monkeypatch.setattr(job, "one", begin)
    monkeypatch.chdir(tmp_path)


@settings(max_examples=25, **ANY)
@given(arguments=st.lists(WORDS, max_size=4))
def test_any_command_line_is_understood_or_one_line(before, arguments):
    check_line(arguments)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@settings(max_examples=800, **ANY)
@given(arguments=st.lists(WORDS, max_size=4))
def test_thousands_of_command_lines_are_understood_or_one_line(before, arguments):
    check_line(arguments)
