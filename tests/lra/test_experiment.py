"""A run from data to record on a tiny task, and what becomes of it when it is stopped, repeated or goes wrong."""

import os
import signal

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lra.backbone import Classifier
from lra.experiment import Cell, Hardware, Training, run
from lra.results import config_hash
from lra.task import Batch, TaskSpec


class Loader:
    """Batches in an order that is a function of the epoch; stateful as Lightning knows it."""

    def __init__(self, x, y, batch, shuffle):
        self.x, self.y, self.batch, self.shuffle = x, y, batch, shuffle
        self.epoch = self.position = 0

    def __len__(self):
        return len(self.y) // self.batch

    def __iter__(self):
        if self.position == len(self):
            self.epoch, self.position = self.epoch + 1, 0
        order = torch.arange(len(self.y))
        if self.shuffle:
            order = torch.randperm(len(self.y), generator=torch.Generator().manual_seed(self.epoch))
        while self.position < len(self):
            rows = order[self.position * self.batch :][: self.batch]
            self.position += 1
            yield Batch(self.x[rows], torch.ones(len(rows), self.x.shape[1], dtype=torch.bool), self.y[rows])

    def state_dict(self):
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state):
        self.epoch, self.position = state["epoch"], state["position"]


class Majority(pl.LightningDataModule):
    """Which of two tokens is more frequent?"""

    spec = TaskSpec("majority", 9, 2, 3)
    kind, fingerprint, counts = "toy", "0" * 8, {"train": 64, "val": 32, "test": 32}
    notes = ("made up",)

    def __init__(self):
        super().__init__()
        x = torch.randint(1, 3, (128, 9), generator=torch.Generator().manual_seed(0))
        y = (x.sum(1) > 13).long()
        self.parts = {"train": (x[:64], y[:64]), "val": (x[64:96], y[64:96]), "test": (x[96:], y[96:])}
        self.tested = 0

    def majority(self, split):
        return self.parts[split][1].bincount().max().item() / len(self.parts[split][1])

    def shown(self, split, i):
        return "".join("ab"[token - 1] for token in self.parts[split][0][i].tolist()), None

    def loader(self, split, shuffle=False):
        return Loader(*self.parts[split], 8, shuffle)

    def train_dataloader(self):
        return self.loader("train", shuffle=True)

    def val_dataloader(self):
        return self.loader("val")

    def test_dataloader(self):
        self.tested += 1
        return self.loader("test")


class Pool(nn.Module):
    def __init__(self, d_model, max_len):
        super().__init__()
        self.linear = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x, mask):
        return self.dropout(torch.relu(self.linear(x)))


def cell():
    config = {"model": {"d_model": 8}}
    return Cell("majority", "pool", "Pool", 0, "smoke", [], config, config_hash(config), None, None, "none")


def go(folder, *, steps=40, mixer=Pool, data=None, lr=0.01, hardware=None, **training):
    torch.manual_seed(0)
    model = Classifier(Majority.spec, d_model=8, n_layers=1, mixer=mixer)
    return run(
        cell(),
        data=data or Majority(),
        model=model,
        optimizer={"lr": lr},
        training=Training(steps=steps, validations=4, **training),
        hardware=hardware or Hardware(accelerator="cpu"),
        folder=folder,
    )


def losses(record):
    return [(p.step, p.train_loss, p.val_loss, p.val_accuracy) for p in record.curve]


def test_a_run_learns_and_tells_what_it_did(tmp_path):
    data = Majority()
    record = go(tmp_path, steps=200, data=data)
    assert record.status == "ok"
    assert record.steps_done == record.steps_total == 200
    assert [p.step for p in record.curve] == [50, 100, 150, 200]
    assert record.test_accuracy == record.test_correct / record.n_test > 0.9 > data.majority("test")
    assert record.n_test == 32
    assert record.val_accuracy == max(p.val_accuracy for p in record.curve)
    assert record.epochs == 25
    assert record.flops > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors"]


def test_the_test_split_is_read_once(tmp_path):
    data = Majority()
    go(tmp_path, data=data)
    assert data.tested == 1


def test_same_seed_same_numbers(tmp_path):
    a, b = go(tmp_path / "a"), go(tmp_path / "b")
    assert losses(a) == losses(b)
    assert a.test_correct == b.test_correct


class StopsAt(Pool):
    """Sends a signal to its own process in the middle of one training step."""

    at: int | None = None
    seen = 0

    def forward(self, x, mask):
        type(self).seen += self.training
        if self.training and type(self).seen == type(self).at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(x, mask)


@pytest.mark.parametrize("at", [1, 13, 20, 40])
def test_a_stopped_run_goes_on_as_if_undisturbed(tmp_path, at):
    whole = go(tmp_path / "whole")
    StopsAt.at, StopsAt.seen = at, 0
    first = go(tmp_path / "stopped", mixer=StopsAt)
    assert first.status == "interrupted"
    assert first.steps_done == at
    assert "SIGTERM" in first.reason
    assert first.test_accuracy is None
    second = go(tmp_path / "stopped")
    assert second.status == "ok"
    assert losses(second) == losses(whole)
    assert (second.test_correct, second.val_accuracy) == (whole.test_correct, whole.val_accuracy)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, capsys):
    whole = go(tmp_path / "whole")
    StopsAt.at, StopsAt.seen = 17, 0
    go(tmp_path / "stopped", mixer=StopsAt, hardware=Hardware(accelerator="cpu", checkpoint_seconds=0.0))
    last = tmp_path / "stopped" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:500])
    second = go(tmp_path / "stopped")
    assert "last.ckpt: not readable" in capsys.readouterr().out
    assert losses(second) == losses(whole)


def test_divergence_is_a_record_that_names_step_and_rate(tmp_path):
    record = go(tmp_path, steps=100, lr=1e30)
    assert record.status == "diverged"
    assert "step" in record.reason
    assert "learning rate" in record.reason
    assert record.test_accuracy is None


def test_out_of_memory_is_a_record(tmp_path):
    class Hungry(Pool):
        def forward(self, x, mask):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore lines")

    record = go(tmp_path, mixer=Hungry)
    assert record.status == "oom"
    assert record.reason == "CUDA out of memory. Tried to allocate 9 GiB"


@pytest.mark.parametrize(
    ("given", "total", "every"), [({"epochs": 40}, 400, 10), ({"steps": 55}, 55, 2), ({"epochs": 0.5}, 5, 5)]
)
def test_steps_are_derived(given, total, every):
    training = Training(**given)
    assert training.total_steps(10) == total
    assert training.validate_every(10) == every


def test_length_is_given_once():
    for given in ({}, {"epochs": 1, "steps": 1}):
        with pytest.raises(ValueError, match="give one of the two"):
            Training(**given)
