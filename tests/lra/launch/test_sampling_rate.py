"""Testing a trained model on inputs of another sampling rate."""

import math

import pytest
import torch

from data.forecasting import Forecasting
from data.listops import ListOps
from helpers.made_up_runs import ran
from lra.errors import UserError
from lra.launch.evaluation import ResamplingLearner, check_rate, prepare_layers, rate_record
from lra.nn.classifier import Classifier
from lra.records.audit import audit_records
from lra.task import Batch, TaskSpec
from models.gru import GRU
from models.s4 import S4

SPEC = TaskSpec("signal", 1024, 3, None)


def signals(n: int = 6) -> Batch:
    """Slow waves, so that half the samples hold the same signal."""
    time = torch.linspace(0, 1, 1024)[None]
    generator = torch.Generator().manual_seed(0)
    x = sum(torch.randn(n, 1, generator=generator) * torch.sin(2 * math.pi * k * time + k) for k in range(1, 9))
    x = x * torch.sin(math.pi * time) ** 2
    return Batch(x[..., None], torch.ones(n, 1024, dtype=torch.bool), torch.zeros(n, dtype=torch.int64))


def output(model: Classifier, rate: float | None) -> torch.Tensor:
    if rate is not None:
        prepare_layers(model, math.ceil(1024 * rate), rate)
    learner = ResamplingLearner(model.eval(), optimizer={}, rate=rate or 1.0)
    with torch.no_grad():
        return learner(signals())


@pytest.mark.parametrize("rate", [0.5, 0.25])
def test_s4_sees_the_same_signal_at_another_rate(rate):
    def model() -> Classifier:
        torch.manual_seed(1)
        mixer = lambda d_model, max_len: S4(d_model, max_len, d_state=16, bidirectional=True)  # noqa: E731
        return Classifier(SPEC, d_model=16, n_layers=2, mixer=mixer)

    full = output(model(), None)
    adapted = (output(model(), rate) - full).norm() / full.std()
    blind = ResamplingLearner(model().eval(), optimizer={}, rate=rate)
    with torch.no_grad():
        unadapted = (blind(signals()) - full).norm() / full.std()
    assert adapted < 0.25 * unadapted


def test_model_without_a_continuous_view_is_tested_as_it_is():
    torch.manual_seed(1)
    model = Classifier(SPEC, d_model=8, n_layers=1, mixer=lambda d_model, max_len: GRU(d_model, max_len, d_state=None))
    assert output(model, 0.5).shape == (6, 3)


@pytest.mark.parametrize(
    ("rate", "task", "message"),
    [
        (0.5, ListOps(batch_size=1), "the input of listops is no signal; hint: a task such as sc10"),
        (0.5, Forecasting(series="etth1", batch_size=1), "the input of etth1-uni-24 is no signal"),
    ],
)
def test_other_inputs_are_refused(rate, task, message):
    with pytest.raises(UserError, match=message):
        check_rate(rate, task.spec)


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.5])
def test_impossible_rate_is_refused(rate):
    with pytest.raises(UserError, match=r"not in \(0, 1\]; hint: rate=0.5"):
        check_rate(rate, SPEC)


def test_record_of_another_rate_is_its_own(tmp_path):
    record = ran("s4", "sc10-raw", 900)
    test = {"score": 0.5, "totals": {"correct": 500, "examples": 1000}}
    made = rate_record(record, 0.5, test)
    made.write(made.path(tmp_path))
    assert made.path(tmp_path) == tmp_path / "paper/s4/sc10-raw-0.5x/0.json"
    assert (made.test_score, made.curve, made.kernels) == (0.5, [], [])
    assert made.config_hash != record.config_hash
    assert "tested at 0.5 of it" in made.notes[-1]
    folder = f"runs/paper/sc10-raw/s4/0-{record.config_hash[:8]}"
    assert made.command == f"python scripts/evaluate.py checkpoint={folder} rate=0.5"
    assert [problem for problem in audit_records([made], lambda commit: True) if "command" in problem] == []
