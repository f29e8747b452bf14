"""A run of a second: which of two tokens is more frequent? For tests of what becomes of runs."""

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


class StopsAt(Pool):
    """Sends a signal to its own process in the middle of one training step."""

    at: int | None = None
    seen = 0

    def forward(self, x, mask):
        type(self).seen += self.training
        if self.training and type(self).seen == type(self).at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(x, mask)


def cell():
    config = {"model": {"d_model": 8}}
    return RunSpec("majority", "pool", "Pool", 0, "smoke", [], config, config_hash(config), None, None, "none")


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
