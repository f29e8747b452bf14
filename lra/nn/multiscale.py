"""Backbone at several resolutions: blocks, pooling, blocks at the coarser resolution, and back, without looking ahead.

As in the density model of the S4 paper (appendix D.3.1) and in SaShiMi (Goel et al. 2022, arXiv:2202.09729, section 4).
B batch, L length, D model width, p pooling factor, e expansion.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import Backbone, MakeMixer, Residual


class DownPool(nn.Linear):
    """Linear map of p neighbouring positions to one that is e times as wide: (B, L, D) -> (B, L / p, e D)."""

    def __init__(self, d_model: int, factor: int, expand: int):
        super().__init__(factor * d_model, expand * d_model)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unflatten(1, (-1, self.factor)).flatten(2))


class UpPool(nn.Linear):
    """Linear map of a position to p that are e times as narrow, p positions later: (B, L / p, e D) -> (B, L, D).

    The delay keeps the model causal: the last position of a group of p is complete only after the others are read. The
    first p positions are zeros.
    """

    def __init__(self, d_model: int, factor: int, expand: int):
        super().__init__(expand * d_model, factor * d_model)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(self.spread(x[:, :-1]), (0, 0, self.factor, 0))

    def spread(self, x: Tensor) -> Tensor:
        """(B, L / p, e D) -> (B, L, D) without the delay."""
        return super().forward(x).unflatten(-1, (self.factor, -1)).flatten(1, 2)


class MultiScale(nn.Module):
    """n_layers blocks, then the same at a coarser resolution between two poolings, then n_layers blocks.

    pool    p of each pooling, the outermost first; () for a plain backbone of n_layers blocks
    expand  e: the width grows by this at each pooling
    d_ff    width of the feed-forward networks in units of the model width; others as in Backbone
    """

    def __init__(
        self,
        *,
        mixer: MakeMixer,
        d_model: int,
        n_layers: int,
        max_len: int,
        pool: Sequence[int] = (3, 4, 4),
        expand: int = 2,
        d_ff: int = 2,
        dropout: float = 0.0,
        norm: str = "layer",
        tie_dropout: bool = False,
        outermost: bool = True,
    ):
        super().__init__()
        options: dict[str, Any] = {"mixer": mixer, "n_layers": n_layers, "dropout": dropout, "tie_dropout": tie_dropout}
        options["norm"] = norm

        def blocks() -> Backbone:
            backbone = Backbone(d_model=d_model, max_len=max_len, d_ff=d_ff * d_model, **options)
            backbone.norm = None
            return backbone

        self.first = blocks()
        self.inner: MultiScale | None = None
        if pool:
            factor = pool[0]
            self.down = DownPool(d_model, factor, expand)
            self.inner = MultiScale(
                d_model=expand * d_model,
                max_len=-(-max_len // factor),
                pool=pool[1:],
                expand=expand,
                d_ff=d_ff,
                outermost=False,
                **options,
            )
            self.up = UpPool(d_model, factor, expand)
            self.last = blocks()
        self.norm: nn.LayerNorm | None = nn.LayerNorm(d_model) if outermost else None

    @property
    def blocks(self) -> list[Residual]:
        return self.residuals()

    def residuals(self) -> list[Residual]:
        """The blocks of all resolutions, in the order of computation."""
        inner = [] if self.inner is None else [*self.inner.residuals(), *self.last.residuals()]
        return [*self.first.residuals(), *inner]

    @property
    def causal(self) -> bool:
        return all(block.causal for block in self.residuals())

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, D), mask (B, L) -> (B, L, D); what is after the last real position affects nothing before it."""
        x = self.first(x, mask)
        if self.inner is not None:
            length, factor = x.shape[1], self.down.factor
            padded = F.pad(x * mask[..., None], (0, 0, 0, -length % factor))
            coarse = F.pad(mask, (0, -length % factor)).unflatten(1, (-1, factor)).any(-1)
            y = self.up(self.inner(self.down(padded), coarse))[:, :length]
            x = self.last(x + y, mask)
        return x if self.norm is None else self.norm(x)

    def setup_step(self) -> None:
        self.first.setup_step()
        if self.inner is not None:
            self.inner.setup_step()
            self.last.setup_step()

    def default_state(self, batch: int) -> tuple[Any, ...]:
        """States of the blocks, and between the poolings (n_read, group, ahead).

        n_read  positions read, (B,) int64: the same for all rows
        group   (B, p, D): the positions of the group that is being read
        ahead   (B, p, D): what the coarser resolution adds to them
        """
        if self.inner is None:
            return (self.first.default_state(batch),)
        zeros = self.up.weight.new_zeros(batch, self.up.factor, self.up.out_features // self.up.factor)
        pooling = torch.zeros(batch, dtype=torch.int64, device=zeros.device), zeros, zeros.clone()
        inner, last = self.inner.default_state(batch), self.last.default_state(batch)
        return self.first.default_state(batch), pooling, inner, last

    def step(self, x: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """One position; the coarser resolutions step once for each p positions of the finer.

        raises  ValueError where the rows have read different numbers of positions
        """
        x, first = self.first.step(x, state[0])
        if self.inner is None:
            return x if self.norm is None else self.norm(x), (first,)
        (n_read, group, ahead), inner, last = state[1:]
        place = int(n_read[0]) % self.down.factor
        if (n_read != n_read[0]).any():
            raise ValueError("rows at different positions cannot step together in a model with pooling")
        group = group.clone()
        group[:, place] = x
        x, last = self.last.step(x + ahead[:, place], last)
        if place == self.down.factor - 1:
            y, inner = self.inner.step(self.down(group)[:, 0], inner)
            ahead = self.up.spread(y[:, None])
        return x if self.norm is None else self.norm(x), (first, (n_read + 1, group, ahead), inner, last)

    def prefill(self, x: Tensor, mask: Tensor, state: tuple[Any, ...] | None = None) -> tuple[Tensor, tuple[Any, ...]]:
        """Many positions: whole groups at once, the others step by step.

        raises  ValueError for rows of different lengths
        """
        if not mask.all():
            raise ValueError("rows of different lengths cannot be read together in a model with pooling")
        state = self.default_state(len(x)) if state is None else state
        if self.inner is None:
            x, first = self.first.prefill(x, mask, state[0])
            return x if self.norm is None else self.norm(x), (first,)
        factor, outputs = self.down.factor, []
        before = min(-int(state[1][0][0]) % factor, x.shape[1])  # until the group is full
        after = before + (x.shape[1] - before) // factor * factor
        for t in range(before):
            y, state = self.step(x[:, t], state)
            outputs.append(y[:, None])
        if after > before:
            y, state = self._groups(x[:, before:after], state)
            outputs.append(y)
        for t in range(after, x.shape[1]):
            y, state = self.step(x[:, t], state)
            outputs.append(y[:, None])
        return torch.cat(outputs, 1), state

    def _groups(self, x: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """Read whole groups (B, n p, D)."""
        assert self.inner is not None
        (n_read, group, ahead), inner, last = state[1:]
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        x, first = self.first.prefill(x, real, state[0])
        y, inner = self.inner.prefill(self.down(x), real[:, :: self.down.factor], inner)
        spread = torch.cat([ahead, self.up.spread(y)], 1)
        x, last = self.last.prefill(x + spread[:, : x.shape[1]], real, last)
        pooling = n_read + x.shape[1], group, spread[:, x.shape[1] :]
        return x if self.norm is None else self.norm(x), (first, pooling, inner, last)
