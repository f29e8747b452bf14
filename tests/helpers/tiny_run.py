"""A training run of about a second: which of two tokens is more frequent?"""

import os
import signal

import pytorch_lightning as pl
import torch
from torch import nn

from lra.nn.classifier import Classifier
from lra.records.record import config_hash
from lra.records.run_spec import RunSpec
from lra.task import Batch, TaskSpec
from lra.training.config import Hardware, Training
from lra.training.run import run


class Loader:
    """Batches in an order that depends on the epoch; Lightning saves and restores its state."""

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
    batch_size = 8

    def __init__(self):
        super().__init__()
        x = torch.randint(1, 3, (128, 9), generator=torch.Generator().manual_seed(0))
        y = (x.sum(1) > 13).long()
        self.parts = {"train": (x[:64], y[:64]), "val": (x[64:96], y[64:96]), "test": (x[96:], y[96:])}
        self.tested = 0

    def trivial_score(self, split):
        return self.parts[split][1].bincount().max().item() / len(self.parts[split][1])

    def example(self, split, i):
        return "".join("ab"[token - 1] for token in self.parts[split][0][i].tolist()), None

    def train_dataloader(self):
        return Loader(*self.parts["train"], self.batch_size, shuffle=True)

    def val_dataloader(self):
        return Loader(*self.parts["val"], self.batch_size, shuffle=False)

    def test_dataloader(self):
        self.tested += 1
        return Loader(*self.parts["test"], self.batch_size, shuffle=False)


class Pool(nn.Module):
    def __init__(self, d_model, max_len):
        super().__init__()
        self.linear = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x, mask):
        return self.dropout(torch.relu(self.linear(x)))


class StopsAt(Pool):
    """Sends SIGTERM to its own process during training step `at`."""

    at: int | None = None
    seen = 0

    def forward(self, x, mask):
        type(self).seen += self.training
        if self.training and type(self).seen == type(self).at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(x, mask)


def train(folder, *, steps=40, mixer=Pool, data=None, lr=0.01, hardware=None, notes=(), **training):
    """A run with seed 0; returns its record. `training` are further arguments of `Training`."""
    torch.manual_seed(0)
    config = {"model": {"d_model": 8}}
    return run(
        RunSpec("majority", "pool", "Pool", 0, "smoke", [], config, config_hash(config), None, None, "none", [*notes]),
        data=data or Majority(),
        model=Classifier(Majority.spec, d_model=8, n_layers=1, mixer=mixer),
        optimizer={"lr": lr},
        training=Training(steps=steps, validations=4, **training),
        hardware=hardware or Hardware(accelerator="cpu"),
        folder=folder,
    )


def losses(record):
    return [(p.step, p.train_loss, p.val_loss, p.val_score) for p in record.curve]
