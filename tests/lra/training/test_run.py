"""A run from data to record on a tiny task: completed, interrupted, repeated, failed."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.tiny_run import Majority, Pool, StopsAt, losses, train
from lra.ops.cpp_library import instruction_set, library
from lra.training.checkpoint import discard
from lra.training.config import Hardware, Training
from lra.training.optim import schedule
from lra.training.run import check_settings
from models.s4 import S4


def test_run_learns_and_is_recorded(tmp_path):
    data = Majority()
    record = train(tmp_path, steps=200, data=data)
    assert record.status == "ok"
    assert record.steps_done == record.steps_total == 200
    assert [p.step for p in record.curve] == [50, 100, 150, 200]
    totals = record.test_totals
    assert record.test_score == totals["correct"] / totals["examples"] > 0.9 > data.trivial_score("test")
    assert record.test_totals["examples"] == 32
    assert data.tested == 1
    assert record.val_score == max(p.val_score for p in record.curve)
    assert record.epochs == 25
    assert record.flops > 0
    discard(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors"]


def test_record_names_only_its_own_kernel_backend(tmp_path):
    """Neither the reference backend, by which operations are counted, nor that of an earlier run in the process."""
    records = [train(tmp_path / mixer.__name__, steps=4, mixer=mixer) for mixer in (S4, Pool)]
    loops = f"compiled ({instruction_set(library('fftconv'))})"
    assert [record.kernel_backend for record in records] == [loops, None]


def test_gradients_are_clipped_under_autocast(tmp_path):
    hardware = Hardware(accelerator="cpu", precision="bf16-mixed")
    records = [train(tmp_path / str(clip), hardware=hardware, clip=clip) for clip in (None, 1e-9)]
    assert [(r.status, r.precision) for r in records] == [("ok", "bf16-mixed")] * 2
    # AdamW divides by the gradient's size; only a gradient so small is small against its epsilon
    free, clipped = (abs(r.curve[-1].train_loss - r.curve[0].train_loss) for r in records)
    assert clipped < free / 2


def test_batch_is_divided_among_processes():
    data = SimpleNamespace(batch_size=8)
    check_settings(data, Hardware(devices=2))
    with pytest.raises(ValueError, match=r"^task.batch_size=8: not a multiple of 3 processes"):
        check_settings(data, Hardware(devices=3))


def test_same_seed_gives_the_same_numbers(tmp_path):
    a, b = train(tmp_path / "a"), train(tmp_path / "b")
    assert losses(a) == losses(b)
    assert a.test_totals["correct"] == b.test_totals["correct"]


@pytest.mark.parametrize("at", [1, 13, 20, 40])
def test_interrupted_run_resumes_bit_for_bit(tmp_path, at):
    undisturbed = train(tmp_path / "undisturbed")
    StopsAt.at, StopsAt.seen = at, 0
    first = train(tmp_path / "stopped", mixer=StopsAt)
    assert first.status == "interrupted"
    assert first.steps_done == at
    assert "SIGTERM" in first.reason
    assert first.test_score is None
    StopsAt.at, StopsAt.seen = None, 0
    second = train(tmp_path / "stopped", mixer=StopsAt)
    assert second.status == "ok"
    assert StopsAt.seen == 40 - at, "it started again"
    assert losses(second) == losses(undisturbed)
    assert (second.test_totals, second.val_score) == (undisturbed.test_totals, undisturbed.val_score)


def test_plateau_lowers_the_rate_and_resumes_bit_for_bit(tmp_path):
    def run(folder, mixer=Pool):
        return train(tmp_path / folder, mixer=mixer, lr=1e-3, schedule="plateau", warmup=0.0, patience=0, factor=0.5)

    undisturbed = run("undisturbed")
    expected = schedule("plateau", 40, 0.0, patience=0, factor=0.5)
    for point in undisturbed.curve:
        expected.validated(point.val_score)
        assert point.lr == pytest.approx(1e-3 * expected(point.step))
    assert expected.reductions > 1
    for steps in (13, 17, 3):  # the second ends with a validation, after which the rate falls
        StopsAt.at, StopsAt.seen = steps, 0
        assert run("stopped", StopsAt).status == "interrupted"
        StopsAt.at = None
    second = run("stopped", StopsAt)
    assert losses(second) == losses(undisturbed)
    assert [p.lr for p in second.curve] == [p.lr for p in undisturbed.curve]


class Noisy(StopsAt):
    """Draws noise from Python's generator and from NumPy's."""

    def forward(self, x, mask):
        noise = random.random() + np.random.rand() if self.training else 0.0  # noqa: NPY002
        return super().forward(x, mask) + noise


def test_python_and_numpy_generators_resume(tmp_path):
    def noisy(folder, seed):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        return train(tmp_path / folder, mixer=Noisy)

    Noisy.at = None
    undisturbed, other = noisy("undisturbed", 0), noisy("other", 1)
    assert losses(other) != losses(undisturbed)
    Noisy.at, Noisy.seen = 13, 0
    assert noisy("stopped", 0).status == "interrupted"
    Noisy.at = None
    assert losses(noisy("stopped", 1)) == losses(undisturbed)


def test_divergence_is_recorded(tmp_path):
    record = train(tmp_path, steps=100, lr=1e30)
    assert record.status == "diverged"
    assert "step" in record.reason
    assert "learning rate" in record.reason
    assert record.test_score is None


@pytest.mark.parametrize(
    ("given", "total", "every"),
    [
        ({"epochs": 40}, 400, 10),
        ({"steps": 55}, 55, 2),
        ({"steps": 5}, 5, 1),
        ({"epochs": 0.5}, 5, 5),
        ({"epochs": 0.26}, 3, 3),
        ({"epochs": 0.01}, 1, 1),
        ({"epochs": 2.5}, 25, 12),
    ],
)
def test_steps_are_derived(given, total, every):
    training = Training(**given)
    assert training.total_steps(10) == total
    assert training.validate_every(10) == every


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        (Training, {}, "training.epochs=None, training.steps=None: exactly one"),
        (Training, {"epochs": 1, "steps": 1}, "training.epochs=1, training.steps=1: exactly one"),
        (Training, {"steps": 0}, "training.steps=0: not positive"),
        (Training, {"epochs": 0.0}, "training.epochs=0.0: not positive"),
        (Training, {"steps": 1, "clip": 0}, "training.clip=0: not positive"),
        (Training, {"steps": 1, "validations": 0}, "training.validations=0: not positive"),
        (Training, {"steps": 1, "warmup": -0.1}, "training.warmup=-0.1: negative"),
        (Training, {"steps": 1, "patience": -1}, "training.patience=-1: negative"),
        (Training, {"steps": 1, "factor": 1.0}, "training.factor=1.0: not between 0 and 1; hint: training.factor=0.2"),
        (Training, {"steps": 1, "schedule": "flat"}, "training.schedule=flat: not one of"),
        (Hardware, {"devices": 0}, "trainer.devices=0: less than 1"),
        (Hardware, {"accelerator": "abacus"}, "trainer.accelerator=abacus: not one of"),
        (Hardware, {"precision": "8-true"}, "trainer.precision=8-true: not one of"),
        (Hardware, {"checkpoint_seconds": -1}, "trainer.checkpoint_seconds=-1: negative"),
    ],
)
def test_invalid_settings_are_refused(settings, given, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        settings(**given)


class Synchronisations(TorchDispatchMode):
    """Counts the values that the host reads from the device."""

    n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += "_local_scalar_dense" in function.name()
        return function(*args, **(kwargs or {}))


def test_steps_never_wait_for_the_device(tmp_path):
    """Twice the steps read no more values: loss, gradients and scores stay on the device."""
    counts = []
    for steps in (20, 40):
        with Synchronisations() as synchronisations:
            train(tmp_path / str(steps), steps=steps, clip=1.0)
        counts.append(synchronisations.n)
    assert counts[0] == counts[1] > 0
