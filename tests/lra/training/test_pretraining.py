"""Self-pretraining guesses what it cannot see, keeps what it learned, and goes on wherever it was stopped."""

import os
import re
import signal
from pathlib import Path

import pytest
import torch

from helpers.compose import classifier, compose, names
from lra.config.compose import cell_of, composed
from lra.launch import job
from lra.paths import ROOT
from lra.records.store import load
from lra.task import TaskSpec
from lra.training.learner import Learner
from lra.training.pretraining import Guesser, Pretrainer, Pretraining, sees_later

SPEC = TaskSpec("test", 48, 3, 11, ragged=True)
DOCS = ROOT / "docs/pretraining.md"


def build(model: str, *more: str):
    torch.manual_seed(0)
    return classifier(compose(f"model={model}", "task=listops", "scale=smoke", *more), SPEC).eval()


def example():
    x = torch.randint(1, 11, (3, 20), generator=torch.Generator().manual_seed(1))
    return x, torch.arange(20) < torch.tensor([20, 13, 9])[:, None]


def guesses(guesser, x, mask):
    torch.manual_seed(3)
    return guesser(x, mask)


@pytest.mark.parametrize("model", ["transformer", "s4"])  # with and without a class token
def test_what_is_hidden_is_not_seen_and_padding_is_not_asked_for(model):
    guesser = Guesser(build(model), SPEC, Pretraining("masked", share=0.4)).eval()
    torch.nn.init.normal_(guesser.instead)
    x, mask = example()
    said, hidden = guesses(guesser, x, mask)
    assert said.shape == (hidden.sum(), 11)
    assert 0 < hidden.sum() < mask.sum()
    assert not (hidden & ~mask).any()
    other = torch.where(hidden, x % 10 + 1, x)
    torch.testing.assert_close(guesses(guesser, other, mask)[0], said)
    seen = torch.where(hidden, x, x % 10 + 1)
    assert (guesses(guesser, seen, mask)[0] - said).abs().max() > 1e-3


def test_the_next_position_is_guessed_from_those_before_it():
    guesser = Guesser(build("s4", "model.mixer.bidirectional=false"), SPEC, Pretraining("causal")).eval()
    x, mask = example()
    said, where = guesser(x, mask)
    assert (where == (mask & (torch.arange(20) > 0))).all()
    later = x.clone()
    later[:, 10:] = x[:, 10:] % 10 + 1
    _, place = where.nonzero().T
    apart = (guesser(later, mask)[0] - said).abs().amax(-1)
    assert apart[place <= 10].max() < 1e-4 < apart[place > 10].max()


@pytest.mark.nightly
def test_the_models_that_can_be_pretrained_causally_are_those_the_documentation_names():
    found = [model for model in names("model") if not sees_later(build(model), SPEC, 48)]
    line = next(line for line in DOCS.read_text().splitlines() if line.startswith("Causal as they are:"))
    assert found == re.findall(r"`(\w+)`", line)
    assert not sees_later(build("s4", "model.mixer.bidirectional=false"), SPEC, 48)


def words(folder: Path, *more: str) -> list[str]:
    folders = [f"results={folder}/results", f"runs={folder}/runs", f"data.root={folder.parent}/data"]
    cell = ["task=listops", "model=transformer", "scale=smoke", "training.steps=12", "model.dropout=0.1"]
    return [*cell, *folders, "trainer.accelerator=cpu", "wandb.mode=disabled", "pretrain=masked", *more]


def record_of(folder: Path):
    (path,) = (folder / "results").rglob("*.json")
    return load(path)


class StopsAt:
    """Lets a kind of training get SIGTERM in its n-th step."""

    def __init__(self, monkeypatch, kind, at: int):
        self.own, self.at, self.seen = kind._part_loss, at, 0
        monkeypatch.setattr(kind, "_part_loss", lambda learner, part: self(learner, part))

    def __call__(self, learner, part):
        self.seen += 1
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.own(learner, part)


def test_a_run_stopped_in_either_part_goes_on_as_if_undisturbed(tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert job.one(**composed(words(whole))) == 0
    for kind, at, part in ((Pretrainer, 5, "step 5 of the pretraining"), (Learner, 7, "step 7")):
        with monkeypatch.context() as patch:
            StopsAt(patch, kind, at)
            assert job.one(**composed(words(stopped))) == 130
        assert record_of(stopped).reason.endswith(part)
    assert job.one(**composed(words(stopped))) == 0
    one, two = record_of(whole), record_of(stopped)
    points = [[(p.step, p.train_loss, p.val_loss) for p in record.curve] for record in (one, two)]
    assert points[0] == points[1]
    assert one.test_correct == two.test_correct
    assert "pretrain=masked" in one.variant
    (note,) = [note for note in one.notes if note.startswith("pretrained")]
    assert note in two.notes
    assert note.startswith("pretrained for 12 steps on the training inputs (masked, 15 % of the positions hidden")
    # the plain cell's configuration says nothing of it
    assert one.config["pretrain"]["kind"] == "masked"
    plain = composed([word for word in words(whole) if word != "pretrain=masked"])
    assert "pretrain" not in cell_of(**plain).config


@pytest.mark.parametrize("loss", ["cross_entropy", pytest.param("l1", marks=pytest.mark.nightly)])
def test_pictures_are_guessed_as_grey_levels_or_as_values(tmp_path, loss):
    cell = [word for word in words(tmp_path / "a") if not word.startswith(("task=", "model="))]
    more = ["task=image", "model=s4", f"pretraining.loss={loss}", "pretraining.steps=3"]
    assert job.one(**composed([*cell, *more])) == 0
    assert any(
        f"pretrained for 3 steps on the training inputs (masked, 50 % of the positions hidden, {loss}" in note
        for note in record_of(tmp_path / "a").notes
    )


def test_what_cannot_be_is_one_line(tmp_path, capsys):
    for more, line in (
        (["pretrain=causal"], "pretrain=causal: this model sees later positions"),
        (["pretrain=mask"], "pretrain=mask: not one of null, masked, causal"),
        (["pretraining.loss=l1"], "pretraining.loss=l1: this task's input is tokens"),
        (["pretraining.share=2"], "pretraining.share=2: a share between 0 and 1"),
        (["pretrain=null", "pretraining.share=0.2"], "pretraining.* without pretrain="),
    ):
        with pytest.raises(SystemExit) as stop:
            job.one(**composed(words(tmp_path / "b", *more)))
        assert stop.value.code == 2
        assert line in capsys.readouterr().err.splitlines()[-1]
