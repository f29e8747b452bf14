"""The test set decides nothing, is read once, and where the literature's rule chooses by it, the result is marked."""

import pytest
import torch

from data.datamodule import DataError
from helpers.finished_run import small_run
from helpers.tiny_run import Majority, Pool, go
from lra.nn.classifier import Classifier
from lra.tables import comparison
from lra.training import weights
from lra.training.learner import Learner


def listops(folder, **changes):
    from data.listops import ListOps

    return ListOps(batch_size=4, root=folder, source="toy", **changes)


@pytest.mark.parametrize(("other", "named"), [("val", False), ("train", False), ("train", True)])
def test_data_that_would_choose_or_learn_by_test_is_refused(tmp_path, other, named):
    data = listops(tmp_path)
    data.selection_on_test = named
    data.prepare_data()
    rule = data.split
    data.split = lambda parts, edition: {**rule(parts, edition), other: rule(parts, edition)["test"]}
    with pytest.raises(DataError, match=f"test examples are in {other} too; only a rule named in the configuration"):
        data.setup()


def test_the_named_rule_may_choose_by_test_and_marks_record_and_row(tmp_path):
    record = small_run(tmp_path, "task=text", "task.validation=test")
    assert record.selection.on_test
    assert comparison.ON_TEST in comparison.signs([record])
    assert "the test split serves as validation, as in the literature" in record.notes
    assert not small_run(tmp_path / "other", "task=text").selection.on_test


def test_the_test_set_is_read_once_in_a_run_and_a_second_look_is_refused(tmp_path):
    data = Majority()
    assert go(tmp_path, steps=8, data=data).status == "ok"
    assert data.tested == 1
    learner = Learner(Classifier(Majority.spec, d_model=8, n_layers=1, mixer=Pool), optimizer={"lr": 0.1})
    learner.on_test_epoch_start()
    learner.results["test"] = {"accuracy": 0.5}
    with pytest.raises(RuntimeError, match="has read its test set already"):
        learner.on_test_epoch_start()


class Drowned(Pool):
    """After 20 steps of training its inputs are drowned."""

    def __init__(self, d_model, max_len):
        super().__init__(d_model, max_len)
        self.register_buffer("age", torch.zeros(()))

    def forward(self, x, mask):
        self.age += self.training
        return super().forward(x, mask) + 1e4 * (self.age > 20) * torch.arange(x.shape[-1])


def test_the_weights_that_validation_chose_are_tested_and_kept(tmp_path):
    record = go(tmp_path, steps=40, mixer=Drowned, lr=0.1)
    assert record.curve[-1].val_accuracy < 0.7
    assert record.selection.step <= 20
    assert record.test_accuracy > 0.9
    (age,) = (value for name, value in weights.load(tmp_path / "model.safetensors")[0].items() if name.endswith("age"))
    assert age == record.selection.step


def test_a_record_names_how_its_checkpoint_was_chosen(tmp_path):
    record = go(tmp_path, steps=8)
    assert record.selection.rule == "best val/accuracy, earliest of equals"
    best = max(p.val_accuracy for p in record.curve)
    assert record.selection.step == min(p.step for p in record.curve if p.val_accuracy == best)
