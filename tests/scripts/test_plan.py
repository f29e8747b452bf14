"""What a cell costs is measured by real steps of it."""

import pytest

from scripts import cost


@pytest.mark.parametrize("source", ["toy", "nowhere"])
def test_a_cell_is_measured_with_its_own_data_or_random_data_of_its_size(source, tmp_path):
    words = ["task=image", "model=fnet", "scale=smoke", "trainer=cpu", "trainer.threads=1", f"data.root={tmp_path}"]
    if source == "toy":
        cost.instantiate(cost.composed(words)["cfg"].task).prepare_data()
    found = cost.measure(words, patience=5.0)
    assert found["real_batches"] == (source == "toy")
    assert found["measured_batch"] == found["batch"]
    assert found["seconds"] > found["steps"] * found["step_seconds"] > 0
    assert found["memory_mib"] > 0


def test_a_batch_that_takes_longer_than_the_patience_is_measured_in_part(tmp_path):
    words = ["task=image", "model=fnet", "scale=smoke", "trainer=cpu", "trainer.threads=1", f"data.root={tmp_path}"]
    assert cost.measure(words, patience=1e-9)["measured_batch"] == 1


def test_a_cell_costs_its_steps_its_validations_and_its_test(monkeypatch, tmp_path):
    monkeypatch.setattr(cost, "steps", lambda work, batches, batch, patience: (batch, 2.0, 100.0))
    monkeypatch.setattr(cost.Work, "evaluate", lambda self, batch: 0.5 * len(batch.y))
    words = ["task=image", "model=fnet", "scale=smoke", "trainer=cpu", "data.source=toy", f"data.root={tmp_path}"]
    words += ["task.batch_size=8", "task.eval_batch_size=20", "training.steps=40", "training.validations=4"]
    found = cost.measure(words, patience=5.0)
    # 64 examples of each split: four batches; half a second an example, of which 16 are measured
    assert found["evaluation_seconds"] == 10.0
    assert 0 < found["seconds"] - (40 * 2.0 + (4 + 1) * 4 * 10.0) < 60
