"""The classifier: embedding, encoder, head."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import UserError
from lra.nn.adaptive import AdaptiveVocabulary
from lra.nn.batch_norm import BatchNorm
from lra.nn.blocks import Backbone, Dropout, Embedding, MakeMixer
from lra.nn.heads import AdaptiveDecoder, Head, PositionDecoder
from lra.nn.multiscale import MultiScale
from lra.task import TaskSpec


class Classifier(nn.Module):
    """Maps (x, mask) of a `Batch` to scores (B, n_outputs), or (B, horizon, n_outputs) for the last positions.

    mixer          builds a mixer from (d_model, max_len); `Backbone` stacks it
    encoder        instead of a mixer: builds the whole encoder from (d_model=, n_layers=, max_len=, dropout=)
    norm, prenorm  layer, batch or rms; before or after the layer of a block
    dropout        after every layer of a block; tie_dropout: the same features at all positions
    input_dropout  after the embedding
    positions      none, learned or sinusoidal
    pool           mean, last, first or cls (a learned token in front); no effect where positions are predicted
    d_ff           width of the feed-forward networks; 0 for none
    head_hidden    width of the hidden layer of the head; 0 for a linear head (d_model for a pair of documents)
    mixers_per_ff  mixers before each feed-forward network
    adaptive       cutoffs, div and dropout of lra.nn.adaptive for a large vocabulary; None: a table and a linear head
    raises         UserError for a model that reads later positions, on a task whose outputs must not
    """

    def __init__(
        self,
        spec: TaskSpec,
        *,
        d_model: int,
        n_layers: int,
        mixer: MakeMixer | None = None,
        encoder: Callable[..., nn.Module] | None = None,
        norm: str = "layer",
        prenorm: bool = True,
        dropout: float = 0.0,
        tie_dropout: bool = False,
        input_dropout: float = 0.0,
        positions: str = "none",
        pool: str = "mean",
        d_ff: int = 0,
        activation: str = "gelu",
        head_hidden: int = 0,
        mixers_per_ff: int = 1,
        adaptive: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.encoder: Any
        if (mixer is None) == (encoder is None):
            raise ValueError("model: exactly one of mixer and encoder is needed")
        vocabulary = None if adaptive is None else AdaptiveVocabulary(spec.n_outputs, d_model, **adaptive)
        self.embedding = Embedding(spec, d_model, positions=positions, class_token=pool == "cls", vocabulary=vocabulary)
        self.input_dropout = Dropout(input_dropout, tied=tie_dropout)
        max_len = self.embedding.max_len
        if encoder is not None:
            self.encoder = encoder(d_model=d_model, n_layers=n_layers, max_len=max_len, dropout=dropout)
            # an encoder builds its norms without knowing the task
            for module in self.encoder.modules():
                if isinstance(module, BatchNorm):
                    module.ragged = spec.ragged
        else:
            assert mixer is not None
            self.encoder = Backbone(
                mixer=mixer,
                d_model=d_model,
                n_layers=n_layers,
                max_len=max_len,
                ragged=spec.ragged,
                norm=norm,
                prenorm=prenorm,
                dropout=dropout,
                tie_dropout=tie_dropout,
                d_ff=d_ff,
                activation=activation,
                mixers_per_ff=mixers_per_ff,
            )
        d_output: int = getattr(self.encoder, "d_output", d_model)
        self.head: Any
        if vocabulary is not None:
            self.head = AdaptiveDecoder(spec, vocabulary)
        elif spec.horizon:
            self.head = PositionDecoder(spec, d_output)
        else:
            self.head = Head(spec, d_output, pool=pool, hidden=head_hidden)
        if spec.causal and (reason := self.not_causal()):
            raise UserError(f"{spec.name}: {reason}")

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h, mask = self.embedding(x, mask)
        h = self.encoder(self.input_dropout(h), mask)
        return self.head(h, mask)

    def not_causal(self) -> str | None:
        """Why a prediction may depend on later positions, with a hint; None if the model is autoregressive."""
        if not isinstance(self.head, PositionDecoder):
            return "the model is not causal: its head pools all positions into one prediction"
        if self.embedding.class_token is not None:
            return "the model is not causal: a class token precedes the input; hint: model.pool=last"
        for module in self.encoder.modules():
            if isinstance(module, BatchNorm):
                return "the model is not causal: batch norm reads all positions in training; hint: model.norm=layer"
        part = "mixer" if isinstance(self.encoder, Backbone) else "encoder"
        part += ".mixer" if isinstance(self.encoder, MultiScale) else ""
        for layer in self.mixing_layers():
            if not getattr(layer, "causal", False):
                name = f"the model is not causal: {type(layer).__name__} reads later positions"
                options = {"causal": "true", "bidirectional": "false"} if hasattr(layer, "causal") else {}
                known = [f"{key}={value}" for key, value in options.items() if key in signature(type(layer)).parameters]
                return f"{name}; hint: " + (f"model.{part}.{known[0]}" if known else "model=s4 or model=transformer")
        return None

    def no_steps(self) -> str | None:
        """Why a causal model cannot process a sequence step by step; None if it can."""
        for layer in self.mixing_layers():
            if not hasattr(layer, "step"):
                name = type(layer).__name__
                return f"{name} is a convolution without a recurrence and has no steps; hint: run it on each prefix"
            why: Callable[[], str | None] = getattr(layer, "no_steps", lambda: None)
            if reason := why():
                return reason
        return None

    def mixing_layers(self) -> list[nn.Module]:
        """The layers that move information between positions."""
        if isinstance(self.encoder, Backbone | MultiScale):
            return [block.layer for block in self.encoder.residuals() if block.takes_mask]
        return [self.encoder]

    def setup_step(self) -> None:
        """Prepare `step` and `prefill`; call it again after the parameters change.

        raises  RuntimeError if the model is not causal, or has no steps
        """
        if reason := self.not_causal() or self.no_steps():
            raise RuntimeError(reason)
        if hasattr(self.encoder, "setup_step"):
            self.encoder.setup_step()

    def default_state(self, batch: int) -> tuple[Any, Any]:
        return self.embedding.default_state(batch), self.encoder.default_state(batch)

    @torch.no_grad()
    def step(self, x: Tensor, state: tuple[Any, Any]) -> tuple[Tensor, tuple[Any, Any]]:
        """One position: x (B,) tokens or (B, width) values -> outputs (B, n_outputs), next state; without dropout.

        raises  ValueError past max_len, for models with position codes or a cache of keys
        """
        h, position = self.embedding.step(x, state[0])
        h, after = self.encoder.step(h, state[1])
        return self.head.every(h), (position, after)

    @torch.no_grad()
    def prefill(self, x: Tensor, mask: Tensor, state: tuple[Any, Any] | None = None) -> tuple[Tensor, tuple[Any, Any]]:
        """Many positions: outputs (B, L, n_outputs) and the state after the last real position of each row.

        mask  (B, L) True where real; the real positions of a row come first. A row without any keeps its state.
        """
        if not x.shape[1]:  # the encoders take at least one position
            nothing = self.embedding.embed(x)
            nothing = nothing.new_empty(len(x), 0, getattr(self.encoder, "d_output", nothing.shape[-1]))
            return self.head.every(nothing), self.default_state(len(x)) if state is None else state
        before = (None, None) if state is None else state
        h, position = self.embedding.prefill(x, mask, before[0])
        h, after = self.encoder.prefill(h, mask, before[1])
        return self.head.every(h), (position, after)
