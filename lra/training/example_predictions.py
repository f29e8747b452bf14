"""A handful of test inputs with what the model said of them, taken from the test itself."""

from typing import Any

import numpy as np
import torch
from pytorch_lightning.callbacks import Callback

from lra.records.pictures import grey
from lra.records.record import Example

COUNT = 6
CHARACTERS = 1200  # of a text, at most
BUDGET = 9_000  # characters of all texts and pictures of a record


class Samples(Callback):
    """Predictions on test examples evenly spread over those that this process tests.

    data  a prepared data module, whose `shown(split, i)` is the i-th example as a reader sees it
    """

    def __init__(self, data: Any, count: int = COUNT):
        self.data, self.count = data, count
        self.examples: list[Example] = []

    def on_test_start(self, trainer, pl_module) -> None:
        n = self.data.counts["test"] // trainer.world_size
        self._wanted = set(np.linspace(0, n - 1, min(self.count, n)).round().astype(int).tolist())
        self._seen, self._room = 0, BUDGET
        self.examples = []

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        here = [i for i in range(len(batch.y)) if self._seen + i in self._wanted]
        if here and trainer.is_global_zero:
            chances = torch.softmax(outputs[here].float(), -1).cpu()
            for i, chance, label in zip(here, chances, batch.y[here].tolist(), strict=True):
                self._keep(self._seen + i, chance, label)
        self._seen += len(batch.y)

    def _keep(self, position: int, chance: torch.Tensor, label: int) -> None:
        text, pixels = self.data.shown("test", position)
        if text is not None and len(text) > CHARACTERS:
            text = f"{text[: CHARACTERS // 2]} … {text[-CHARACTERS // 2 :]}"
        picture = None if pixels is None else grey(pixels)
        size = len(text or "") + len(picture or "")
        if size > self._room and self.examples:
            return
        self._room -= size
        predicted = int(chance.argmax())
        probability = round(float(chance[predicted]), 4)
        self.examples.append(
            Example(label=label, predicted=predicted, probability=probability, text=text, picture=picture)
        )
