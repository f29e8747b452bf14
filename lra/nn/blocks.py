"""Embedding, norms, feed-forward network and residual blocks around a mixer.

B batch, L length, D model width. A *mixer* moves information between positions; most files of `models/` implement one:
`mixer(d_model, max_len)` returns a module with `forward(x (B, L, D), mask (B, L)) -> (B, L, D)`.

A mixer or encoder is *causal* if no position reads a later one; its attribute `causal` is then True. A causal one may
also process a sequence in parts, without dropout:

    setup_step()                          before the first step, and after the parameters change; only where it exists
    default_state(batch)                  state before the first position: nested tuples of tensors, batch first
    step(x (B, D), state)                 one position: output (B, D) and the next state
    prefill(x (B, L, D), mask, state)     many positions: outputs (B, L, D) and the state after the last real position
                                          of each row; without a state, from the start

The real positions of a row come first; a row without any keeps its state. A step may write into the memory of the state
that it is given: clone a state that is to be continued twice. `Embedding`, `Residual`, `Backbone` and `Classifier` have
the same methods.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.batch_norm import BatchNorm
from lra.task import TaskSpec

MakeMixer = Callable[[int, int], nn.Module]


def require_causal(layer: Any, option: str) -> None:
    """RuntimeError, with the constructor's option for it, if a layer reads later positions."""
    if not layer.causal:
        raise RuntimeError(f"a two-sided {type(layer).__name__} reads the future; hint: {option}")


def sinusoids(max_len: int, d_model: int) -> Tensor:
    """Position code (max_len, d_model): sines, then cosines (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(max_len, dtype=torch.float64)[:, None]
    rate = torch.exp(-math.log(10000.0) * torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    angle = position * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :d_model].float()


class Embedding(nn.Module):
    """Token table, or linear map of real values and a table for each category; plus positions and a class token."""

    def __init__(
        self,
        spec: TaskSpec,
        d_model: int,
        *,
        positions: str = "none",
        class_token: bool = False,
        vocabulary: nn.Module | None = None,
    ):
        super().__init__()
        self.vocab_size, self.d_model = spec.vocab_size, d_model
        self.content: nn.Module
        if vocabulary is not None:
            self.content = vocabulary
        elif spec.vocab_size is None:
            self.content = nn.Linear(spec.channels, d_model)
        else:
            self.content = nn.Embedding(spec.vocab_size, d_model)
        self.channels = spec.channels
        self.categories = nn.ModuleList(nn.Embedding(size, d_model) for size in spec.categories)
        self.class_token = nn.Parameter(torch.zeros(d_model)) if class_token else None
        self.max_len = spec.max_len + class_token
        if positions == "learned":
            self.positions = nn.Parameter(0.02 * torch.randn(self.max_len, d_model))
        elif positions == "sinusoidal":
            self.register_buffer("positions", sinusoids(self.max_len, d_model), persistent=False)
        elif positions != "none":
            raise ValueError(f"positions: {positions!r} is not one of none, learned, sinusoidal")
        self.has_positions = positions != "none"

    def embed(self, x: Tensor) -> Tensor:
        """The content alone, without positions."""
        if not self.categories:
            return self.content(x)
        h = self.content(x[..., : self.channels])
        for i, table in enumerate(self.categories, self.channels):
            h = h + table(x[..., i].long())
        return h

    def forward(
        self, x: Tensor, mask: Tensor, hidden: Tensor | None = None, mask_vector: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns (B, L, D) and its mask; L grows by one with a class token.

        hidden, mask_vector  positions (B, L) whose content is replaced by the vector (D,)
        """
        h = self.embed(x)
        if hidden is not None and mask_vector is not None:
            h = torch.where(hidden[..., None], mask_vector.to(h.dtype), h)
        if self.class_token is not None:
            h = torch.cat([self.class_token.to(h.dtype).expand(len(h), 1, -1), h], dim=1)
            mask = F.pad(mask, (1, 0), value=True)
        if h.shape[1] > self.max_len:
            raise ValueError(f"input has {h.shape[1]} positions, the model was built for max_len {self.max_len}")
        if self.has_positions:
            h = h + self.positions[: h.shape[1]].to(h.dtype)
        return h * mask[..., None], mask

    def default_state(self, batch: int) -> Tensor:
        """The number of positions each row has had: zeros (B,)."""
        return torch.zeros(batch, dtype=torch.int64, device=next(self.parameters()).device)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x (B,) tokens or (B, width) values -> (B, D) and the next state."""
        h, state = self.prefill(x[:, None], torch.ones(len(x), 1, dtype=torch.bool, device=x.device), state)
        return h[:, 0], state

    def prefill(self, x: Tensor, mask: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, L) or (B, L, width) -> (B, L, D) and the next state.

        raises  ValueError where a position code is needed past max_len
        """
        start = self.default_state(len(x)) if state is None else state
        after = start + mask.sum(1)
        h = self.embed(x)
        if self.has_positions:
            if (longest := int(after.max())) > self.max_len:
                raise ValueError(f"input has {longest} positions, the model was built for max_len {self.max_len}")
            place = start[:, None] + torch.arange(x.shape[1], device=x.device)
            h = h + self.positions[place.clamp(max=self.max_len - 1)].to(h.dtype)
        return h * mask[..., None], after


class TrainedLength(nn.Module):
    """A layer that computes with `length`, the max_len it was trained with, which is saved with its weights.

    Loaded into a layer built for another max_len, the weights thus give the same output for the same input. Weights
    saved without a length are taken to be for the layer's own max_len.
    """

    length: int

    def set_length(self, length: int) -> None:
        """Compute with another trained length; UserError if the layer could then not take its own max_len."""
        raise NotImplementedError

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.length, device="cpu")

    def set_extra_state(self, length: Tensor) -> None:
        self.set_length(int(length))

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        state_dict.setdefault(prefix + "_extra_state", self.get_extra_state())
        super()._load_from_state_dict(state_dict, prefix, *args)


class Dropout(nn.Module):
    """Dropout; `tied` drops a feature at all positions of an example."""

    def __init__(self, p: float, *, tied: bool = False):
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout: {p} is not in [0, 1)")
        self.p, self.tied = p, tied

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if not self.tied:
            return F.dropout(x, self.p)
        return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.p)

    def extra_repr(self) -> str:
        return f"{self.p}, tied={self.tied}"


class Norm(nn.Module):
    """Layer, batch or RMS normalisation, called as norm(x, mask)."""

    def __init__(self, kind: str, d_model: int, *, ragged: bool):
        super().__init__()
        if kind == "batch":
            self.norm: nn.Module = BatchNorm(d_model, ragged=ragged)
        elif kind == "layer":
            self.norm = nn.LayerNorm(d_model)
        elif kind == "rms":
            self.norm = nn.RMSNorm(d_model, eps=1e-6)
        else:
            raise ValueError(f"norm: {kind!r} is not one of layer, batch, rms")
        self.needs_mask = kind == "batch"

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.norm(x, mask) if self.needs_mask else self.norm(x)

    def by_position(self, x: Tensor) -> Tensor:
        """Normalise (B, D) or (B, L, D); RuntimeError for batch norm in training, which reads all positions."""
        if not self.needs_mask:
            return self.norm(x)
        if self.training:
            raise RuntimeError("batch norm has no steps in training; hint: eval()")
        return self.norm(x[None] if x.dim() == 2 else x, None).view_as(x)


def checked_reach(reach: int | None) -> int | None:
    """How far a mixer may look, for analyses; ValueError unless it is a positive number of positions or None."""
    if reach is not None and reach < 1:
        raise ValueError(f"reach: {reach} is not a positive number of positions; hint: 1 is the position itself")
    return reach


ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


class FeedForward(nn.Sequential):
    """Position-wise network: linear to d_ff, activation, dropout, linear to d_model."""

    def __init__(self, d_model: int, d_ff: int, *, activation: str, dropout: float, tie_dropout: bool):
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation: {activation!r} is not one of {', '.join(ACTIVATIONS)}")
        super().__init__(
            nn.Linear(d_model, d_ff),
            ACTIVATIONS[activation](),
            Dropout(dropout, tied=tie_dropout),
            nn.Linear(d_ff, d_model),
        )

    def without_dropout(self, x: Tensor) -> Tensor:
        return self[3](self[1](self[0](x)))


class Residual(nn.Module):
    """x + dropout(layer(norm(x))), or norm(x + dropout(layer(x))) with prenorm=False."""

    layer: Any

    def __init__(self, layer: nn.Module, norm: Norm, dropout: Dropout, *, prenorm: bool, takes_mask: bool):
        super().__init__()
        self.layer, self.norm, self.dropout = layer, norm, dropout
        self.prenorm, self.takes_mask = prenorm, takes_mask

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.norm(x, mask) if self.prenorm else x
        y = self.layer(y, mask) if self.takes_mask else self.layer(y)
        y = x + self.dropout(y)
        return y if self.prenorm else self.norm(y, mask)

    @property
    def causal(self) -> bool:
        return not self.takes_mask or getattr(self.layer, "causal", False)

    def setup_step(self) -> None:
        if hasattr(self.layer, "setup_step"):
            self.layer.setup_step()

    def default_state(self, batch: int) -> Any:
        return self.layer.default_state(batch) if self.takes_mask else ()

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y = self.norm.by_position(x) if self.prenorm else x
        y, state = self.layer.step(y, state) if self.takes_mask else (self.layer.without_dropout(y), state)
        y = x + y
        return y if self.prenorm else self.norm.by_position(y), state

    def prefill(self, x: Tensor, mask: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y = self.norm.by_position(x) if self.prenorm else x
        y, state = self.layer.prefill(y, mask, state) if self.takes_mask else (self.layer.without_dropout(y), ())
        y = x + y
        return y if self.prenorm else self.norm.by_position(y), state


class Backbone(nn.Module):
    """n_layers times a mixer, or `mixers_per_ff` of them, and a feed-forward network if d_ff > 0.

    A final norm follows pre-norm blocks.
    """

    def __init__(
        self,
        *,
        mixer: MakeMixer,
        d_model: int,
        n_layers: int,
        max_len: int,
        ragged: bool = True,
        norm: str = "layer",
        prenorm: bool = True,
        dropout: float = 0.0,
        tie_dropout: bool = False,
        d_ff: int = 0,
        activation: str = "gelu",
        mixers_per_ff: int = 1,
    ):
        super().__init__()

        def residual(layer: nn.Module, takes_mask: bool) -> Residual:
            layer_norm, drop = Norm(norm, d_model, ragged=ragged), Dropout(dropout, tied=tie_dropout)
            return Residual(layer, layer_norm, drop, prenorm=prenorm, takes_mask=takes_mask)

        self.blocks = nn.ModuleList()
        for _ in range(n_layers):
            for _ in range(mixers_per_ff):
                self.blocks.append(residual(mixer(d_model, max_len), takes_mask=True))
            if d_ff > 0:
                ffn = FeedForward(d_model, d_ff, activation=activation, dropout=dropout, tie_dropout=tie_dropout)
                self.blocks.append(residual(ffn, takes_mask=False))
        self.norm = Norm(norm, d_model, ragged=ragged) if prenorm else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return x if self.norm is None else self.norm(x, mask)

    def residuals(self) -> list[Residual]:
        return cast(list[Residual], list(self.blocks))

    @property
    def causal(self) -> bool:
        return all(block.causal for block in self.residuals())

    def setup_step(self) -> None:
        for block in self.residuals():
            block.setup_step()

    def default_state(self, batch: int) -> tuple[Any, ...]:
        return tuple(block.default_state(batch) for block in self.residuals())

    def step(self, x: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        states = []
        for block, before in zip(self.residuals(), state, strict=True):
            x, after = block.step(x, before)
            states.append(after)
        return x if self.norm is None else self.norm.by_position(x), tuple(states)

    def prefill(self, x: Tensor, mask: Tensor, state: tuple[Any, ...] | None = None) -> tuple[Tensor, tuple[Any, ...]]:
        states = []
        for block, before in zip(self.residuals(), state or [None] * len(self.blocks), strict=True):
            x, after = block.prefill(x, mask, before)
            states.append(after)
        return x if self.norm is None else self.norm.by_position(x), tuple(states)
