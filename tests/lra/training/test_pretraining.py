"""Self-pretraining predicts what the model cannot see, keeps what it learned, and resumes after an interruption."""

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
from lra.training.pretraining import InputPredictor, Pretraining, PretrainingLearner, is_causal

SPEC = TaskSpec("test", 48, 3, 11, ragged=True)
DOCS = ROOT / "docs/pretraining.md"


def build(model: str, *overrides: str):
    torch.manual_seed(0)
    return classifier(compose(f"model={model}", "task=listops", "scale=smoke", *overrides), SPEC).eval()


def example():
    x = torch.randint(1, 11, (3, 20), generator=torch.Generator().manual_seed(1))
    return x, torch.arange(20) < torch.tensor([20, 13, 9])[:, None]


@pytest.mark.parametrize("model", ["transformer", "s4"])  # with and without a class token
def test_hidden_positions_are_not_seen(model):
    predictor = InputPredictor(build(model), SPEC, Pretraining("masked", share=0.4)).eval()
    torch.nn.init.normal_(predictor.mask_vector)

    def predict(x):
        torch.manual_seed(3)
        return predictor(x, mask)

    x, mask = example()
    predictions, hidden = predict(x)
    assert predictions.shape == (hidden.sum(), 11)
    assert 0 < hidden.sum() < mask.sum()
    assert not (hidden & ~mask).any()
    changed = x % 10 + 1
    torch.testing.assert_close(predict(torch.where(hidden, changed, x))[0], predictions)
    assert (predict(torch.where(hidden, x, changed))[0] - predictions).abs().max() > 1e-3


def test_next_position_depends_on_earlier_ones():
    predictor = InputPredictor(build("s4", "model.mixer.bidirectional=false"), SPEC, Pretraining("causal")).eval()
    x, mask = example()
    predictions, predicted = predictor(x, mask)
    assert (predicted == (mask & (torch.arange(20) > 0))).all()
    later = x.clone()
    later[:, 10:] = x[:, 10:] % 10 + 1
    position = predicted.nonzero()[:, 1]
    change = (predictor(later, mask)[0] - predictions).abs().amax(-1)
    assert change[position <= 10].max() < 1e-4 < change[position > 10].max()


@pytest.mark.nightly
def test_documentation_lists_the_causal_models():
    causal = [model for model in names("model") if is_causal(build(model), SPEC, 48)]
    line = next(line for line in DOCS.read_text().splitlines() if line.startswith("Causal by default:"))
    assert causal == re.findall(r"`(\w+)`", line)
    assert is_causal(build("s4", "model.mixer.bidirectional=false"), SPEC, 48)


def overrides(folder: Path, *more: str, task: str = "listops", model: str = "transformer") -> list[str]:
    folders = [f"results={folder}/results", f"runs={folder}/runs", f"data.root={folder.parent}/data"]
    run = [f"task={task}", f"model={model}", "scale=smoke", "training.steps=12", "model.dropout=0.1"]
    return [*run, *folders, "trainer.accelerator=cpu", "wandb.mode=disabled", "pretrain=masked", *more]


def record_of(folder: Path):
    (path,) = (folder / "results").rglob("*.json")
    return load(path)


def terminate_in_step(monkeypatch, learner_class, at: int) -> None:
    """Send SIGTERM to this process during step `at` of this kind of training."""
    compute_loss, seen = learner_class.compute_loss, []

    def terminating(learner, batch):
        seen.extend([batch] * learner.training)  # validation computes losses, too
        if learner.training and len(seen) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return compute_loss(learner, batch)

    monkeypatch.setattr(learner_class, "compute_loss", terminating)


def test_interrupted_pretraining_and_training_resume(tmp_path, monkeypatch):
    folder, stopped_folder = tmp_path / "undisturbed", tmp_path / "stopped"
    assert job.one(**composed(overrides(folder))) == 0
    for learner, at, reason in ((PretrainingLearner, 5, "step 5 of the pretraining"), (Learner, 7, "step 7")):
        with monkeypatch.context() as patch:
            terminate_in_step(patch, learner, at)
            assert job.one(**composed(overrides(stopped_folder))) == 130
        assert record_of(stopped_folder).reason.endswith(reason)
    assert job.one(**composed(overrides(stopped_folder))) == 0
    undisturbed, stopped = record_of(folder), record_of(stopped_folder)
    points = [[(p.step, p.train_loss, p.val_loss) for p in record.curve] for record in (undisturbed, stopped)]
    assert points[0] == points[1]
    assert undisturbed.test_totals["correct"] == stopped.test_totals["correct"]
    assert "pretrain=masked" in undisturbed.variant
    (note,) = [note for note in undisturbed.notes if note.startswith("pretrained")]
    assert note in stopped.notes
    assert note.startswith("pretrained for 12 steps on the training inputs (masked, 15 % of the positions hidden")
    # only a pretrained run has the section in its configuration
    assert undisturbed.config["pretrain"]["kind"] == "masked"
    plain = composed([word for word in overrides(folder) if word != "pretrain=masked"])
    assert "pretrain" not in cell_of(**plain).config


@pytest.mark.parametrize("loss", ["cross_entropy", pytest.param("l1", marks=pytest.mark.nightly)])
def test_pictures_are_predicted(tmp_path, loss):
    folder = tmp_path / "a"
    more = [f"pretraining.loss={loss}", "pretraining.steps=3"]
    assert job.one(**composed(overrides(folder, *more, task="image", model="s4"))) == 0
    start = f"pretrained for 3 steps on the training inputs (masked, 50 % of the positions hidden, {loss}"
    assert any(note.startswith(start) for note in record_of(folder).notes)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["pretrain=causal"], "pretrain=causal: this model sees later positions"),
        (["pretrain=mask"], "pretrain=mask: not one of null, masked, causal"),
        (["pretraining.loss=l1"], "pretraining.loss=l1: this task's input is tokens"),
        (["pretraining.share=2"], "pretraining.share=2: not a share between 0 and 1"),
        (["pretrain=null", "pretraining.share=0.2"], "changes nothing in this run; hint: pretrain=masked"),
    ],
)
def test_unsupported_pretraining_is_refused(tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as stop:
        job.one(**composed(overrides(tmp_path / "b", *more)))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
