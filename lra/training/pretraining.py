"""Self-pretraining: the model first learns the inputs of its own training split, then the labels.

Amos, Berant and Gupta 2023, arXiv:2310.02980 ("Never train from scratch"): no other data, the same model, optimiser and
number of steps. Masked: predict the content of hidden positions. Causal: predict the next position at each position,
which needs a model that does not see later ones. Only the embedding and the encoder are kept; the prediction head is
dropped and the classifier starts untrained.
B batch, L length, D model width, C possible values of a position.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from lra.errors import UserError
from lra.nn.classifier import Classifier
from lra.profiling.flops import reference_copy
from lra.task import Batch, TaskSpec
from lra.training.checkpoint import Checkpoint, Identity, Interrupted, discard, read_state, write_state
from lra.training.config import Hardware, Training
from lra.training.cuda_graphs import StepOutput
from lra.training.divergence import Divergence
from lra.training.learner import Learner
from lra.training.learning_curve import LearningCurve
from lra.training.progress_bar import ProgressBar
from lra.training.trainer import make_trainer

KINDS, LOSSES = ("masked", "causal"), ("cross_entropy", "l1")
GREY_LEVELS = 256
PICTURE, TEXT = 0.5, 0.15  # default share of hidden positions


@dataclass(frozen=True)
class Pretraining:
    """Settings of a pretraining.

    kind           masked or causal
    share          share of hidden positions (masked); None: 0.5 of a picture, 0.15 of a text
    loss           cross_entropy, or l1 (real values only)
    epochs, steps  at most one of the two; neither: as long as the training
    """

    kind: str
    share: float | None = None
    loss: str = "cross_entropy"
    epochs: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"pretrain={self.kind}: not one of null, {', '.join(KINDS)}")
        if self.loss not in LOSSES:
            raise UserError(f"pretraining.loss={self.loss}: not one of {', '.join(LOSSES)}")
        if self.share is not None and not 0 < self.share < 1:
            raise UserError(f"pretraining.share={self.share}: not a share between 0 and 1")

    def length(self, training: Training) -> Training:
        if self.epochs is None and self.steps is None:
            return training
        return dataclasses.replace(training, epochs=self.epochs, steps=self.steps)


class InputPredictor(nn.Module):
    """The model with a linear prediction head at every position instead of its classifier.

    Shares the embedding and the encoder with `model`, so training it trains the model.
    """

    def __init__(self, model: Classifier, spec: TaskSpec, plan: Pretraining):
        super().__init__()
        self.embedding, self.input_dropout, self.encoder = model.embedding, model.input_dropout, model.encoder
        d_model = model.embedding.d_model
        d_output: int = getattr(self.encoder, "d_output", d_model)
        values = GREY_LEVELS if plan.loss == "cross_entropy" else spec.channels
        self.out = nn.Linear(d_output, spec.vocab_size or values)
        self.share = (plan.share or (PICTURE if spec.vocab_size is None else TEXT)) if plan.kind == "masked" else None
        self.mask_vector = nn.Parameter(torch.zeros(d_model)) if self.share else None

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions (n, C) of n positions, and which positions (B, L) these are."""
        hidden = mask & (torch.rand(mask.shape, device=mask.device) < self.share) if self.share else None
        h, real = self.embedding(x, mask, hidden, self.mask_vector)
        h = self.encoder(self.input_dropout(h), real)
        h = h[:, h.shape[1] - mask.shape[1] :]  # without a class token
        if hidden is not None:
            return self.out(h[hidden]), hidden
        # position l is predicted from the output at l - 1
        predicted = F.pad(mask[:, 1:], (1, 0))
        return self.out(h[:, :-1][predicted[:, 1:]]), predicted


class PretrainingLearner(Learner):
    """Trains an `InputPredictor`; `target` maps inputs to what is predicted, (B, L) classes or (B, L, channels)."""

    def __init__(self, model: InputPredictor, target: Callable[[Tensor], Tensor], loss_kind: str, **arguments: Any):
        super().__init__(model, **arguments)
        self.target, self.loss_kind = target, loss_kind

    def compute_loss(self, batch: Batch) -> StepOutput:
        predictions, positions = self.model(batch.x, batch.mask)
        target = self.target(batch.x)[positions]
        n = max(len(target), 1)
        if self.loss_kind == "l1":
            loss = (predictions.float() - target).abs().sum() / n
            labels = torch.full((len(target),), -1, device=target.device)  # real values have no accuracy
        else:
            loss = F.cross_entropy(predictions.float(), target, reduction="sum") / n
            labels = target
        return StepOutput(loss, predictions, labels)


@torch.no_grad()
def is_causal(model: Classifier, spec: TaskSpec, length: int = 64) -> bool:
    """Whether the encoder's output ignores all later positions, found by changing the second half of an input."""
    model = reference_copy(model).double()
    length = min(length, spec.max_len)
    half, mask = length // 2, torch.ones(2, length, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    if spec.vocab_size is None:
        x, changed = torch.randn(2, 2, length, spec.channels, generator=generator, dtype=torch.float64)
    else:
        x, changed = torch.randint(1, spec.vocab_size, (2, 2, length), generator=generator)
    changed[:, :half] = x[:, :half]
    outputs = []
    for inputs in (x, changed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            h, real = model.embedding(inputs, mask)
            outputs.append(model.encoder(h, real)[:, :half])
    return bool((outputs[0] - outputs[1]).abs().max() <= 1e-6 * outputs[0].abs().max())


class SelfPretraining:
    """The pretraining of a model on the data it will be trained on.

    folder  of the run; the files of the pretraining lie below it, and an interrupted one resumes from them
    raises  UserError if this model, data or hardware does not allow it
    """

    def __init__(
        self,
        model: Classifier,
        data: Any,
        plan: Pretraining,
        *,
        optimizer: dict,
        training: Training,
        hardware: Hardware,
        folder: Path,
        seed: int,
        title: str,
        console: Console,
        identity: Identity | None = None,
    ):
        if hardware.processes > 1:
            raise UserError(
                f"pretrain={plan.kind}: needs a single process", hint="leave out trainer.devices and trainer.nodes"
            )
        if not isinstance(model, Classifier):
            raise UserError(
                f"pretrain={plan.kind}: this model has no encoder that predicts its input", hint="leave out pretrain"
            )
        if data.spec.vocab_size is not None and plan.loss == "l1":
            raise UserError("pretraining.loss=l1: this task's input is tokens", hint="pretraining.loss=cross_entropy")
        if plan.kind == "causal" and not is_causal(model, data.spec):
            bidirectional = any(getattr(m, "bidirectional", False) for m in model.modules())
            raise UserError(
                "pretrain=causal: this model sees later positions, which it would have to predict",
                hint="pretrain=masked" + (" or model.mixer.bidirectional=false" if bidirectional else ""),
            )
        self.model, self.data, self.plan, self.hardware = model, data, plan, hardware
        self.optimizer, self.training = optimizer, plan.length(training)
        self.folder, self.seed, self.identity = folder / "pretraining", seed, identity
        self.title, self.console = f"{title} pretraining", console

    def run(self) -> list[str]:
        """Pretrain the model, or load the weights if that is done; returns a note for the record."""
        done = self.folder / "pretrained.ckpt"
        if done.exists():
            state = read_state(done)
        else:
            state = self._train()
            write_state(done, state)
            discard(self.folder)
        self.model.load_state_dict(state["weights"])
        torch.manual_seed(self.seed + 1)  # the training starts the same after a fresh and a loaded pretraining
        task = f"{100 * state['share']:g} % of the positions hidden" if state["share"] else "next position"
        details = f"{self.plan.kind}, {task}, {self.plan.loss} {state['loss']:.4g} at the end"
        return [f"pretrained for {state['steps']} steps on the training inputs ({details})"]

    def _train(self) -> dict[str, Any]:
        spec, training = self.data.spec, self.training
        predictor = InputPredictor(self.model, spec, self.plan)
        grey_levels = spec.vocab_size is None and self.plan.loss == "cross_entropy"
        steps = training.total_steps(len(self.data.train_dataloader()))
        learner = PretrainingLearner(
            predictor,
            self.data.levels if grey_levels else lambda x: x,
            self.plan.loss,
            optimizer=self.optimizer,
            schedule=training.schedule,
            warmup=training.warmup,
            total_steps=steps,
            clip=training.clip,
            split=self.hardware.split,
        )
        curve = LearningCurve()
        every = self.hardware.checkpoint_seconds
        checkpoint = Checkpoint(self.folder, every_seconds=every, identity=self.identity)
        trainer = make_trainer(
            self.hardware,
            folder=self.folder,
            max_steps=steps,
            callbacks=[Divergence(), curve, checkpoint, ProgressBar(curve, self.title, self.console)],
            logger=False,
            limit_val_batches=0,
        )
        try:
            trainer.fit(learner, datamodule=self.data, ckpt_path=checkpoint.newest(learner), weights_only=True)
        except Interrupted as error:
            raise Interrupted(f"{error} of the pretraining") from None
        loss = learner.train_metrics.compute_and_reset()[0] or curve.last["train_loss"]
        weights = {name: value.cpu() for name, value in self.model.state_dict().items()}
        state = {"weights": weights, "loss": float(loss), "steps": steps, "share": predictor.share or 0.0}
        return state | ({"identity": dataclasses.asdict(self.identity)} if self.identity else {})
