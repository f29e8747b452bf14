"""Backbone at several resolutions: blocks, pooling, blocks at the coarser resolution, and back, without looking ahead.

As in the density model of the S4 paper (appendix D.3.1) and in SaShiMi (Goel et al. 2022, arXiv:2202.09729, section 4).
B batch, L length, D model width, p pooling factor, e expansion.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.blocks import Backbone, MakeMixer


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
        self.norm = nn.LayerNorm(d_model) if outermost else None

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of all resolutions, in the order of computation."""
        inner = [] if self.inner is None else [*self.inner.blocks, *self.last.blocks]
        return [*self.first.blocks, *inner]

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
