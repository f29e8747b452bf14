"""Any command line and any configuration value is accepted or refused in one line, never with a stack trace."""

import contextlib
import functools
import io
import re
import sys

import pytest
import torch
from hypothesis import strategies as st
from omegaconf import OmegaConf

from helpers.compose import compose, names
from lra.config.compose import keys
from lra.launch import job
from lra.training.learner import Learner
from scripts import train


class TrainingStarts(BaseException):
    """Raised in place of training: the input was accepted."""


def check_accepted_or_one_line(call) -> None:
    """Training starts, or the call ends with status 2 and a one-line message."""
    stderr = io.StringIO()
    status = None
    with contextlib.redirect_stderr(stderr):
        try:
            call()
        except TrainingStarts:
            return
        except SystemExit as stop:
            status = stop.code
    text = stderr.getvalue()
    assert status == 2, text
    assert re.match("train.py: .", text.strip().splitlines()[-1])
    assert "Traceback" not in text


NUMBERS = [-(10**9), -1, 0, 1, 2, 3, 7, 8, -0.5, 0.5, 1.5, 1e-300, 1e300, float("nan"), float("inf")]
TEXTS = ["", "abc", "auto", "batch", "é\n", "${nothing}", "${seed}", "???"]
OTHERS: list = [None, True, False, [], [1, 2], [None], {}]
# class names are code, chosen by whoever writes the configuration
CLASS_NAMES = ("_target_", "_partial_")


@functools.cache
def base(task: str, model: str):
    small = ["scale=smoke", "data.source=toy", "wandb.mode=disabled", "data.root=data", "results=results", "runs=runs"]
    overrides = [f"task={task}", f"model={model}", *small]
    cfg = compose(*overrides)
    known = [k for k in keys(OmegaConf.to_container(cfg)) if not k.endswith(CLASS_NAMES) and "root" not in k]
    return overrides, cfg, sorted(known)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("examples", [40, pytest.param(800, marks=pytest.mark.nightly)])
def test_any_value_is_accepted_or_one_line(examples, fuzz, tmp_path, monkeypatch):
    def begin(cell, *, data, model, optimizer, training, hardware, **rest):
        learner = Learner(model, optimizer=optimizer, schedule=training.schedule, warmup=training.warmup)
        learner.configure_optimizers()
        raise TrainingStarts

    monkeypatch.setattr(job, "run_training", begin)
    # unforeseen errors must fail the test
    monkeypatch.setenv("LRA_TRACE", "1")
    monkeypatch.chdir(tmp_path)

    def check(task, model, position, value):
        overrides, cfg, known = base(task, model)
        cfg = cfg.copy()
        OmegaConf.update(cfg, known[int(position * len(known))], value, merge=False, force_add=True)
        choices = {"task": task, "model": model, "scale": "smoke"}
        with torch.random.fork_rng():
            check_accepted_or_one_line(lambda: job.one(cfg, choices=choices, overrides=[*overrides]))

    fuzz(
        check,
        examples,
        task=st.sampled_from(["listops", "image", "text", "pathfinder"]),
        model=st.sampled_from(names("model")),
        position=st.floats(0, 1, exclude_max=True, allow_subnormal=False),
        value=st.sampled_from([*NUMBERS, *TEXTS, *OTHERS]),
    )


GROUPS = ["task", "model", "scale", "trainer", "recipe", "family", "optimizer", "~training", "task@x", "hydra.run.dir"]
OPTIONS = ["seed", "model.d_model", "model.mixer.dt_min", "training.steps", "wandb.mode", "+new", "++model.x", "é"]
PLAIN = ["listops", "s4", "smoke", "mini", "cpu", "1", "1e3", "null", "nan", "", "a b", "\\", "'", '"a']
SYNTAX = ["[1,2]", "{a:1}", "s4,s4d", "range(1,3)", "choice(a,b)", "glob(*)", "${x}", "${oc.env:HOME}", "["]
OVERRIDES = st.tuples(st.sampled_from([*GROUPS, *OPTIONS]), st.sampled_from([*PLAIN, *SYNTAX]) | st.text(max_size=6))
MULTIRUN = ("-m", "--multirun")
WORDS = st.one_of(OVERRIDES.map("=".join), st.text(max_size=8), st.sampled_from([*MULTIRUN, "=", "a=b=c"]))


def can_be_tried(word: str) -> bool:
    """False for what no shell can pass, for options such as --help, and for folders outside the test's own."""
    return word in MULTIRUN or (word.isprintable() and word[:1] != "-" and "=/" not in word)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("examples", [25, pytest.param(800, marks=pytest.mark.nightly)])
def test_any_command_line_is_accepted_or_one_line(examples, fuzz, tmp_path, monkeypatch):
    def begin(cfg, *, choices, overrides):
        raise TrainingStarts

    monkeypatch.setattr(job, "one", begin)
    monkeypatch.chdir(tmp_path)

    # the command sets it; this restores it
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def check(words):
        monkeypatch.setattr(sys, "argv", ["train.py", *filter(can_be_tried, words)])
        check_accepted_or_one_line(train.command)

    fuzz(check, examples, words=st.lists(WORDS, max_size=4))
