"""A few test examples with the model's predictions, collected during the test; samples of a model that draws them."""

from typing import Any

import numpy as np
import torch
from pytorch_lightning.callbacks import Callback

from lra.console import progress_bar
from lra.nn.generation import Sampling, generate
from lra.records.pictures import colour, grey
from lra.records.record import Example, Forecast
from lra.task import Batch

N_EXAMPLES = 6
MAX_TEXT = 1200  # characters of one text
N_FORECASTS, MAX_POSITIONS = 2, 192
N_SAMPLES, SAMPLE_TOKENS = 4, 300
LINES = ("context", "target", "predicted")
MAX_TOTAL = 9_000  # characters of all texts and pictures of a record


class ExamplePredictions(Callback):
    """Keeps examples evenly spaced over those that this process tests.

    data  a prepared data module; its `shown(split, i)` returns the i-th example for display
    """

    def __init__(self, data: Any):
        self.data = data
        self.examples: list[Example] = []

    def on_test_start(self, trainer, pl_module) -> None:
        n = self.data.counts["test"] // trainer.world_size
        self._wanted = set(np.linspace(0, n - 1, min(N_EXAMPLES, n)).round().astype(int).tolist())
        self._seen, self._left = 0, MAX_TOTAL
        self.examples = []

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if batch.y.is_floating_point():
            if trainer.is_global_zero and batch.y.dim() == 3:
                self._keep_forecasts(outputs, batch)
            self._seen += len(batch.y)
            return
        if batch.y.dim() > 1:  # a token for each position: samples instead
            return
        here = [i for i in range(len(batch.y)) if self._seen + i in self._wanted]
        if here and trainer.is_global_zero:
            probabilities = torch.softmax(outputs[here].float(), -1).cpu()
            for i, probability, label in zip(here, probabilities, batch.y[here].tolist(), strict=True):
                self._keep(self._seen + i, probability, label)
        self._seen += len(batch.y)

    def on_test_end(self, trainer, pl_module) -> None:
        model, task = pl_module.model, self.data
        if not task.spec.causal or model.no_steps() or not trainer.is_global_zero:
            return
        pictures = hasattr(task, "picture")
        n_tokens = task.spec.max_len if pictures else min(task.spec.max_len, SAMPLE_TOKENS)
        nothing = torch.zeros(N_SAMPLES, 0, dtype=torch.int64, device=pl_module.device)
        with progress_bar("drawing samples", N_SAMPLES * n_tokens) as advance:
            drawn = generate(model, nothing, n_tokens, Sampling(), advance=advance).cpu().numpy()
        if pictures:
            self.examples = [Example(picture=colour(task.picture(values))) for values in drawn]
        else:
            self.examples = [Example(text=task.decode(ids)) for ids in drawn]

    def _keep_forecasts(self, outputs: torch.Tensor, batch: Batch) -> None:
        horizon = batch.y.shape[1]
        for i in (i for i in range(len(batch.y)) if self._seen + i in self._wanted):
            context = batch.x[i, -3 * horizon : -horizon, batch.y.shape[2] - 1]
            lines = context, batch.y[i, :, -1], outputs[i, :, -1].float()
            if len(self.examples) < N_FORECASTS:
                values = [[float(f"{v:.4g}") for v in line.tolist()[:MAX_POSITIONS]] for line in lines]
                self.examples.append(Example(forecast=Forecast(**dict(zip(LINES, values, strict=True)))))

    def _keep(self, i: int, probabilities: torch.Tensor, label: int) -> None:
        text, pixels = self.data.example("test", i)
        if text is not None and len(text) > MAX_TEXT:
            text = f"{text[: MAX_TEXT // 2]} … {text[-MAX_TEXT // 2 :]}"
        picture = None if pixels is None else grey(pixels)
        size = len(text or "") + len(picture or "")
        if size > self._left and self.examples:
            return
        self._left -= size
        predicted = int(probabilities.argmax())
        probability = round(float(probabilities[predicted]), 4)
        self.examples.append(
            Example(label=label, predicted=predicted, probability=probability, text=text, picture=picture)
        )
