"""scripts/generate.py draws pictures and texts from a finished run, and refuses others in one line."""

import sys

import numpy as np
import pytest
from PIL import Image

from helpers.finished_run import small_run
from scripts import generate


def trained(folder, *words: str):
    # the checkpoint is of the working tree's own code, a few steps on toy data
    small_run(folder, *words, "model=s4", "family.bidirectional=false", "family.norm=layer")
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    words = ("task=wikitext2", "task.level=byte", "task.context=16", "task.n_val=8", "task.n_test=8")
    return trained(tmp_path_factory.mktemp("text"), *words)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("picture"), "task=cifar_density", "task.size=8", "task.n_test=8")


def call(monkeypatch, capsys, folder, *words: object) -> tuple[int, str, str]:
    options = [f"checkpoint={folder / 'run'}", f"data.root={folder / 'data'}", "data.source=toy", "accelerator=cpu"]
    monkeypatch.setattr(sys, "argv", ["generate.py", *options, *map(str, words)])
    try:
        status = generate.command() or 0
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def test_a_text_continues_its_prompt_and_a_seed_repeats_it(text, monkeypatch, capsys):
    def lines(*words: object) -> str:
        status, out, _ = call(monkeypatch, capsys, text, "prompt='the d'", "n=2", "length=20", *words)
        assert status == 0
        assert " tokens in " in out
        return out.partition("\n")[2]

    first = lines()
    assert first.count("the d") >= 2
    assert lines() == first
    assert lines("seed=1") != first
    assert lines("length=8", "steps=false") == lines("length=8")
    assert lines("temperature=0") == lines("temperature=0", "seed=5")
    assert call(monkeypatch, capsys, text, "length=3", "n=1")[1].startswith("3 tokens in ")


def test_pictures_keep_the_rows_that_are_given(picture, tmp_path, monkeypatch, capsys):
    status, out, _ = call(monkeypatch, capsys, picture, "n=3", "given=0.5", f"out={tmp_path / 'sheet.png'}")
    assert status == 0
    assert out.startswith("288 tokens")  # half of 3 * 192
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    test = np.load(next(picture.glob("data/cifar_density/*/x.npy")))[-8:]
    zoom = 8
    tile = sheet[2 : 2 + 8 * zoom : zoom, 2 : 2 + 8 * zoom : zoom]
    assert any((tile[:4] == row.reshape(8, 8, 3)[:4]).all() for row in test)
    assert sheet.shape == (2 + 66, 2 + 3 * 66, 3)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["temperature=-1"], "temperature=-1: not 0 or more"),
        (["n=0"], "n=0: not 1 or more"),
        (["length=0"], "length=0: not 1 or more"),
        (["given=0.5"], "its examples are texts"),
        (["given=1"], "given=1: not in [0, 1)"),
        (["checkpoint=nowhere"], "nowhere"),
        (["top_p=2"], "top_p=2: not in (0, 1]"),
        (["prompts=x"], "prompts"),
    ],
)
def test_one_line_says_what_is_wrong(text, monkeypatch, capsys, words, reason):
    status, _, err = call(monkeypatch, capsys, text, *words)
    assert status == 2
    assert reason in err
    assert len(err.strip().splitlines()) == 1


def test_a_picture_takes_no_prompt(picture, monkeypatch, capsys):
    assert "its examples are pictures" in call(monkeypatch, capsys, picture, "prompt=the")[2]


def test_a_classifier_generates_nothing(tmp_path, monkeypatch, capsys):
    small_run(tmp_path)
    assert "listops: not a task of the next token" in call(monkeypatch, capsys, tmp_path)[2]


@pytest.mark.parametrize(
    "prompt", ["a, b", "it's [x] = {y}", 'say "so"', "back\\slash\\", "$HOME ${seed}", "", "'quoted'"]
)
def test_a_prompt_is_taken_as_it_is(monkeypatch, prompt):
    monkeypatch.setattr(sys, "argv", ["generate.py", "checkpoint=x", f"prompt={prompt}"])
    found = []
    monkeypatch.setattr(generate, "run", found.append)
    generate.command()
    assert found[0].prompt == prompt.strip("'")
