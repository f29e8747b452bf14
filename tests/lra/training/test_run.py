"""A run from data to record on a tiny task, and what becomes of it when it is stopped, repeated or goes wrong."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.tiny_run import Majority, Pool, StopsAt, losses, train
from lra.ops.ssm_kernels import dispatch
from lra.training.checkpoint import discard
from lra.training.config import Hardware, Training
from lra.training.learner import Learner
from models.s4 import S4


def test_a_run_learns_and_tells_what_it_did(tmp_path):
    data = Majority()
    record = train(tmp_path, steps=200, data=data)
    assert record.status == "ok"
    assert record.steps_done == record.steps_total == 200
    assert [p.step for p in record.curve] == [50, 100, 150, 200]
    assert record.test_accuracy == record.test_correct / record.n_test > 0.9 > data.majority("test")
    assert record.n_test == 32
    assert record.val_accuracy == max(p.val_accuracy for p in record.curve)
    assert record.epochs == 25
    assert record.flops > 0
    discard(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors"]


def test_the_record_names_the_kernel_backend_of_its_run_alone(tmp_path, monkeypatch):
    """Not the definition, by which operations are counted, nor what ran before in the process."""
    monkeypatch.setattr(dispatch, "_backends_used", {"nplr_spectrum": {"keops"}})
    records = [train(tmp_path / mixer.__name__, steps=4, mixer=mixer) for mixer in (S4, Pool)]
    assert [record.kernel_backend for record in records] == ["compiled", None]


def test_gradients_are_clipped_under_autocast_too(tmp_path):
    """By a fused optimizer, which Lightning's own clipping refuses there."""
    hardware = Hardware(accelerator="cpu", precision="bf16-mixed")
    records = [train(tmp_path / str(clip), hardware=hardware, clip=clip) for clip in (None, 1e-9)]
    assert [(r.status, r.precision) for r in records] == [("ok", "bf16-mixed")] * 2
    # AdamW divides by the gradient's size, of which so little is left that its small constant counts
    moved, stayed = (abs(r.curve[-1].train_loss - r.curve[0].train_loss) for r in records)
    assert stayed < moved / 2


def test_scaled_gradients_are_not_clipped_as_if_they_were_not(monkeypatch):
    """float16 scales the loss: a fused optimizer is still refused."""
    plugin = MixedPrecision("16-mixed", "cuda", scaler=torch.amp.GradScaler("cpu"))
    learner = Learner(torch.nn.Linear(2, 2), optimizer={"lr": 0.1})
    learner._trainer = SimpleNamespace(precision_plugin=plugin, gradient_clip_val=1.0, gradient_clip_algorithm=None)
    with pytest.raises(RuntimeError, match="unscaling"):
        learner.configure_gradient_clipping(torch.optim.AdamW(learner.parameters(), fused=True), 1.0)


def test_the_test_split_is_read_once(tmp_path):
    data = Majority()
    train(tmp_path, data=data)
    assert data.tested == 1


def test_same_seed_same_numbers(tmp_path):
    a, b = train(tmp_path / "a"), train(tmp_path / "b")
    assert losses(a) == losses(b)
    assert a.test_correct == b.test_correct


@pytest.mark.parametrize("at", [1, 13, 20, 40])
def test_a_stopped_run_goes_on_as_if_undisturbed(tmp_path, at):
    whole = train(tmp_path / "whole")
    StopsAt.at, StopsAt.seen = at, 0
    first = train(tmp_path / "stopped", mixer=StopsAt)
    assert first.status == "interrupted"
    assert first.steps_done == at
    assert "SIGTERM" in first.reason
    assert first.test_accuracy is None
    StopsAt.at, StopsAt.seen = None, 0
    second = train(tmp_path / "stopped", mixer=StopsAt)
    assert second.status == "ok"
    assert StopsAt.seen == 40 - at, "it began anew"
    assert losses(second) == losses(whole)
    assert (second.test_correct, second.val_accuracy) == (whole.test_correct, whole.val_accuracy)


class Noisy(StopsAt):
    """Draws noise from Python's generator and from NumPy's."""

    def forward(self, x, mask):
        noise = random.random() + np.random.rand() if self.training else 0.0  # noqa: NPY002
        return super().forward(x, mask) + noise


def test_draws_of_python_and_numpy_go_on_as_if_undisturbed(tmp_path):
    def noisy(folder, seed):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        return train(tmp_path / folder, mixer=Noisy)

    Noisy.at = None
    whole, other = noisy("whole", 0), noisy("other", 1)
    assert losses(other) != losses(whole)
    Noisy.at, Noisy.seen = 13, 0
    assert noisy("stopped", 0).status == "interrupted"
    Noisy.at = None
    assert losses(noisy("stopped", 1)) == losses(whole)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, capsys):
    whole = train(tmp_path / "whole")
    StopsAt.at, StopsAt.seen = 17, 0
    train(tmp_path / "stopped", mixer=StopsAt, hardware=Hardware(accelerator="cpu", checkpoint_seconds=0.0))
    last = tmp_path / "stopped" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:500])
    second = train(tmp_path / "stopped")
    assert "last.ckpt: not readable" in capsys.readouterr().out
    assert losses(second) == losses(whole)


def test_divergence_is_a_record_that_names_step_and_rate(tmp_path):
    record = train(tmp_path, steps=100, lr=1e30)
    assert record.status == "diverged"
    assert "step" in record.reason
    assert "learning rate" in record.reason
    assert record.test_accuracy is None


def test_out_of_memory_is_a_record(tmp_path):
    class Hungry(Pool):
        def forward(self, x, mask):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore lines")

    record = train(tmp_path, mixer=Hungry)
    assert record.status == "oom"
    assert record.reason == "CUDA out of memory. Tried to allocate 9 GiB"


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


def test_length_is_given_once():
    for given in ({}, {"epochs": 1, "steps": 1}):
        with pytest.raises(ValueError, match="give one of the two"):
            Training(**given)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Training(steps=0), "training.steps=0: more than 0"),
        (lambda: Training(epochs=0.0), "training.epochs=0.0: more than 0"),
        (lambda: Training(steps=1, clip=0), "training.clip=0: more than 0"),
        (lambda: Training(steps=1, validations=0), "training.validations=0: more than 0"),
        (lambda: Training(steps=1, warmup=-0.1), "training.warmup=-0.1: "),
        (lambda: Training(steps=1, schedule="flat"), "training.schedule=flat: not one of"),
        (lambda: Hardware(devices=0), "trainer.devices=0: at least 1"),
        (lambda: Hardware(accelerator="abacus"), "trainer.accelerator=abacus: not one of"),
        (lambda: Hardware(precision="8-true"), "trainer.precision=8-true: not one of"),
        (lambda: Hardware(checkpoint_seconds=-1), "trainer.checkpoint_seconds=-1: "),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(make, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        make()


class Asked(TorchDispatchMode):
    """Counts the values that the host waits for."""

    n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += "_local_scalar_dense" in function.name()
        return function(*args, **(kwargs or {}))


def test_a_step_waits_for_nothing(tmp_path):
    """Twice the steps, and the host asks for no value more: loss, gradients and scores stay where they are."""
    counts = []
    for steps in (20, 40):
        with Asked() as asked:
            train(tmp_path / str(steps), steps=steps, clip=1.0)
        counts.append(asked.n)
    assert counts[0] == counts[1] > 0
