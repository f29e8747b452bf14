"""The record says what was run, on which data, how long and how fast."""

from itertools import pairwise
from statistics import median

import pytest
import torch
import torch.nn.functional as F

from helpers.tiny_run import Majority, Pool, StopsAt, train
from lra.nn.classifier import Classifier
from lra.records.record import Data
from lra.training import weights


def test_record_describes_run_and_data(tmp_path):
    data = Majority()
    data.kind = "subset"
    record = train(tmp_path, steps=200, data=data, notes=["of the command"])
    assert record.data == Data(kind="subset", fingerprint="0" * 8, counts=data.counts, trivial=19 / 32)
    assert data.trivial_score("test") == 19 / 32 != data.trivial_score("val")
    assert record.notes == ["of the command", "made up"]
    model = Classifier(Majority.spec, d_model=8, n_layers=1, mixer=Pool)
    assert record.parameters == sum(p.numel() for p in model.parameters())
    assert record.train_seconds == record.curve[-1].seconds < record.total_seconds < 600
    speeds = [(b.step - a.step) / (b.seconds - a.seconds) for a, b in pairwise(record.curve)]
    speeds.append(record.curve[0].step / record.curve[0].seconds)
    assert record.steps_per_second == pytest.approx(median(speeds), rel=0.1)


def test_speed_is_known_where_validations_are_close(tmp_path):
    assert train(tmp_path, steps=80).steps_per_second > 0


def test_recorded_scores_equal_those_of_the_weights(tmp_path):
    data = Majority()
    record = train(tmp_path, steps=24, data=data)
    model = Classifier(Majority.spec, d_model=8, n_layers=1, mixer=Pool).eval()
    model.load_state_dict(weights.load(tmp_path / "model.safetensors")[0])
    scored = {}
    with torch.no_grad():
        for split in ("val", "test"):
            x, y = data.parts[split]
            scores = model(x, torch.ones_like(x, dtype=torch.bool))
            scored[split] = float(F.cross_entropy(scores, y)), int((scores.argmax(-1) == y).sum())
    (chosen,) = (point for point in record.curve if point.step == record.selection.step)
    assert chosen.val_loss == pytest.approx(scored["val"][0], rel=1e-4)
    assert chosen.val_score == record.val_score == scored["val"][1] / 32
    assert (record.test_totals["correct"], record.test_totals["examples"]) == (scored["test"][1], 32)


def test_interrupted_run_records_its_epochs(tmp_path):
    StopsAt.at, StopsAt.seen = 12, 0
    record = train(tmp_path, mixer=StopsAt)
    # 64 examples in batches of eight
    assert (record.steps_done, record.steps_total, record.epochs) == (12, 40, 1.5)
