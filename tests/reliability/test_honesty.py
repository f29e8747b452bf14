"""Test data decides nothing and is read once; a published rule that selects on the test set marks the result."""

import pytest
import torch

from data.listops import ListOps
from data.prepared import DataError
from helpers.finished_run import small_run
from helpers.tiny_run import Majority, Pool, train
from lra.nn.classifier import Classifier
from lra.tables import comparison
from lra.training import weights
from lra.training.learner import Learner


@pytest.mark.parametrize(("other", "on_test"), [("val", False), ("train", False), ("train", True)])
def test_leaked_test_examples_are_refused(tmp_path, monkeypatch, other, on_test):
    data = ListOps(batch_size=4, root=tmp_path, source="toy")
    data.selection_on_test = on_test
    data.prepare_data()
    split = data.split

    def leak(parts, edition):
        return {**split(parts, edition), other: split(parts, edition)["test"]}

    monkeypatch.setattr(data, "split", leak)
    with pytest.raises(DataError, match=f"test examples are in {other} too"):
        data.setup()


def test_selection_on_test_is_marked(tmp_path):
    record = small_run(tmp_path, "task=text", "task.validation=test")
    assert record.selection.on_test
    assert comparison.ON_TEST in comparison.signs([record])
    assert any("test split" in note for note in record.notes)
    assert not small_run(tmp_path / "other", "task=text").selection.on_test


def test_test_set_is_read_once(tmp_path):
    data = Majority()
    assert train(tmp_path, steps=8, data=data).status == "ok"
    assert data.tested == 1
    learner = Learner(Classifier(Majority.spec, d_model=8, n_layers=1, mixer=Pool), optimizer={"lr": 0.1})
    learner.on_test_epoch_start()
    learner.results["test"] = {"accuracy": 0.5}
    with pytest.raises(RuntimeError, match="test set"):
        learner.on_test_epoch_start()


class LosesItsInput(Pool):
    """From training step 21 on a large constant swamps its output."""

    step: torch.Tensor

    def __init__(self, d_model, max_len):
        super().__init__(d_model, max_len)
        self.register_buffer("step", torch.zeros(()))

    def forward(self, x, mask):
        self.step += self.training
        return super().forward(x, mask) + 1e4 * (self.step > 20) * torch.arange(x.shape[-1])


def test_selected_weights_are_tested_and_kept(tmp_path):
    record = train(tmp_path, steps=40, mixer=LosesItsInput, lr=0.1)
    assert record.curve[-1].val_score < 0.7
    assert record.selection.step <= 20
    assert record.test_score > 0.9
    state = weights.load(tmp_path / "model.safetensors")[0]
    (step,) = (value for name, value in state.items() if name.endswith("step"))
    assert step == record.selection.step


def test_record_names_the_selection_rule(tmp_path):
    record = train(tmp_path, steps=8)
    assert record.selection.rule == "best val/accuracy, earliest of equals"
    best = max(p.val_score for p in record.curve)
    assert record.selection.step == min(p.step for p in record.curve if p.val_score == best)
