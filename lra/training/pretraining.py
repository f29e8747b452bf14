"""Self-pretraining: the model first learns the task's own training inputs, then the labels.

Amos, Berant and Gupta 2023, arXiv:2310.02980 ("Never train from scratch"): no other data, the same model, optimiser and
number of steps. Masked: some positions are hidden, and the model says what was there. Causal: it says at each position
what comes next, which asks for a model that does not see it. Only the embedding and the encoder are kept; the head that
guesses inputs is left behind, the one that classifies begins anew.
B batch, L length, D model width, C possible values of a position.
"""

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from lra.nn.classifier import Classifier
from lra.task import Batch, TaskSpec
from lra.training.checkpoint import Checkpoint, Interrupted, discard, read_state, write_state
from lra.training.config import Hardware, Training
from lra.training.divergence import Divergence
from lra.training.learner import Learner
from lra.training.learning_curve import Curve
from lra.training.progress_bar import ProgressBar
from lra.training.trainer import trainer_for

KINDS, LOSSES = ("masked", "causal"), ("cross_entropy", "l1")
GREYS = 256
PICTURE, TEXT = 0.5, 0.15  # share of hidden positions


@dataclass(frozen=True)
class Pretraining:
    """kind: masked or causal; share: of the hidden positions; loss: cross_entropy or l1 (of real values only).

    epochs, steps  at most one of the two; none: as long as the training
    """

    kind: str
    share: float | None = None
    loss: str = "cross_entropy"
    epochs: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"pretrain={self.kind}: not one of null, {', '.join(KINDS)}")
        if self.loss not in LOSSES:
            raise ValueError(f"pretraining.loss={self.loss}: not one of {', '.join(LOSSES)}")
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"pretraining.share={self.share}: a share between 0 and 1 is expected")

    def length(self, training: Training) -> Training:
        if self.epochs is None and self.steps is None:
            return training
        return dataclasses.replace(training, epochs=self.epochs, steps=self.steps)


class Guesser(nn.Module):
    """The model without its classifier, and with a linear head at every position.

    Shares the embedding and the encoder of `model`, so that these learn.
    """

    def __init__(self, model: Classifier, spec: TaskSpec, plan: Pretraining):
        super().__init__()
        self.embedding, self.input_dropout, self.encoder = model.embedding, model.input_dropout, model.encoder
        d_model = model.embedding.d_model
        width: int = getattr(self.encoder, "d_output", d_model)
        values = GREYS if plan.loss == "cross_entropy" else spec.channels
        self.out = nn.Linear(width, spec.vocab_size or values)
        self.share = (plan.share or (PICTURE if spec.vocab_size is None else TEXT)) if plan.kind == "masked" else None
        self.instead = nn.Parameter(torch.zeros(d_model)) if self.share else None

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Guesses (n, C) at n positions, and which (B, L) these are."""
        hidden = mask & (torch.rand(mask.shape, device=mask.device) < self.share) if self.share else None
        h, real = self.embedding(x, mask, hidden, self.instead)
        h = self.encoder(self.input_dropout(h), real)
        h = h[:, h.shape[1] - mask.shape[1] :]  # without a class token
        if hidden is not None:
            return self.out(h[hidden]), hidden
        # what is seen up to a position tells the next
        following = F.pad(mask[:, 1:], (1, 0))
        return self.out(h[:, :-1][following[:, 1:]]), following


class Pretrainer(Learner):
    """Trains a `Guesser`; `truth` gives what is to be guessed, (B, L) numbers of values, or (B, L, channels)."""

    def __init__(self, model: Guesser, truth: Any, loss: str, **named: Any):
        super().__init__(model, **named)
        self.truth, self.kind_of_loss = truth, loss

    def _part_loss(self, part: Batch) -> Tensor:
        assert self._batch is not None
        guesses, where = self.model(part.x, part.mask)
        truth = self.truth(part.x)[where]
        n = max(len(truth), 1)
        if self.kind_of_loss == "l1":
            loss = (guesses.float() - truth).abs().sum() / n
            right = torch.full((len(truth),), -1, device=truth.device)  # no guess is right or wrong
        else:
            loss = F.cross_entropy(guesses.float(), truth, reduction="sum") / n
            right = truth
        self._seen.append((loss.detach(), guesses.detach(), right))
        return loss if len(part.y) == len(self._batch.y) else loss * (len(part.y) / len(self._batch.y))


@torch.no_grad()
def sees_later(model: Classifier, spec: TaskSpec, length: int = 64) -> bool:
    """Does what stands at later positions change what the encoder says of earlier ones? Found by trying."""
    model = copy.deepcopy(model).cpu().double().eval()
    for module in model.modules():
        if hasattr(module, "backend"):
            module.backend = "reference"  # type: ignore[assignment]
    length = min(length, spec.max_len)
    half, mask = length // 2, torch.ones(2, length, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    if spec.vocab_size is None:
        one, other = torch.randn(2, 2, length, spec.channels, generator=generator, dtype=torch.float64)
    else:
        one, other = torch.randint(1, spec.vocab_size, (2, 2, length), generator=generator)
    other[:, :half] = one[:, :half]
    said = []
    for x in (one, other):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            h, real = model.embedding(x, mask)
            said.append(model.encoder(h, real)[:, :half])
    return bool((said[0] - said[1]).abs().max() > 1e-6 * said[0].abs().max())


class Pupil:
    """A model about to be pretrained on the data it will be trained on.

    folder  of the run; what belongs to the pretraining lies below it, and an interrupted one goes on there
    raises  ValueError, one line, for what cannot be
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
    ):
        self.model, self.data, self.plan, self.hardware = model, data, plan, hardware
        self.optimizer, self.training = optimizer, plan.length(training)
        self.folder, self.seed = folder / "pretraining", seed
        self.title, self.console = f"{title} pretraining", console
        self._check()

    def _check(self) -> None:
        if self.hardware.processes > 1:
            raise ValueError(
                f"pretrain={self.plan.kind}: one process only; leave out trainer.devices and trainer.nodes"
            )
        if self.data.spec.vocab_size is not None and self.plan.loss == "l1":
            raise ValueError("pretraining.loss=l1: this task's input is tokens; take cross_entropy")
        if self.plan.kind == "causal" and sees_later(self.model, self.data.spec):
            both = any(getattr(m, "bidirectional", False) for m in self.model.modules())
            instead = "take pretrain=masked" + (" or model.mixer.bidirectional=false" if both else "")
            raise ValueError(f"pretrain=causal: this model sees later positions, nothing is left to guess; {instead}")

    def learn(self) -> list[str]:
        """Pretrain, unless that is done; the model keeps what it learned. Returns a note for the record."""
        done = self.folder / "pretrained.ckpt"
        if done.exists():
            state = read_state(done)
        else:
            state = self._train()
            write_state(done, state)
            discard(self.folder)
        self.model.load_state_dict(state["weights"])
        torch.manual_seed(self.seed + 1)  # the training's own, however the pretraining came about
        how = f"{100 * state['share']:g} % of the positions hidden" if state["share"] else "next position"
        about = f"{self.plan.kind}, {how}, {self.plan.loss} {state['loss']:.4g} at the end"
        return [f"pretrained for {state['steps']} steps on the training inputs ({about})"]

    def _train(self) -> dict[str, Any]:
        spec, training = self.data.spec, self.training
        guesser = Guesser(self.model, spec, self.plan)
        truth = self.data.levels if spec.vocab_size is None and self.plan.loss == "cross_entropy" else lambda x: x
        steps = training.total_steps(len(self.data.train_dataloader()))
        learner = Pretrainer(
            guesser,
            truth,
            self.plan.loss,
            optimizer=self.optimizer,
            schedule=training.schedule,
            warmup=training.warmup,
            total_steps=steps,
            split=self.hardware.split,
        )
        curve, checkpoint = Curve(), Checkpoint(self.folder, every_seconds=self.hardware.checkpoint_seconds)
        trainer = trainer_for(
            self.hardware,
            folder=self.folder,
            max_steps=steps,
            clip=training.clip,
            callbacks=[Divergence(), curve, checkpoint, ProgressBar(curve, self.title, self.console)],
            logger=False,
            limit_val_batches=0,
        )
        try:
            trainer.fit(learner, datamodule=self.data, ckpt_path=checkpoint.newest(learner), weights_only=True)
        except Interrupted as error:
            raise Interrupted(f"{error} of the pretraining") from None
        loss = learner.window.take()[0] or curve.last["train_loss"]
        weights = {name: value.cpu() for name, value in self.model.state_dict().items()}
        return {"weights": weights, "loss": float(loss), "steps": steps, "share": guesser.share or 0.0}
