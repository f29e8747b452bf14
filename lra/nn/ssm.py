"""What state-space layers share: the recurrent view, and optimiser groups of kernel parameters."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class Recurrent(nn.Module):
    """A layer that can be stepped through a sequence: `setup_step`, `default_state`, then `step` for every position.

    A layer gives `discretise`, which makes of the parameters what its `step` finds under `discrete`.
    """

    bidirectional: bool
    _made: tuple[Any, tuple] | None = None

    def discretise(self) -> Any:
        raise NotImplementedError

    @torch.no_grad()
    def setup_step(self) -> None:
        """Discretise for `step`; to be called again after the parameters change.

        raises  RuntimeError for a two-sided layer, which reads the future
        """
        if self.bidirectional:
            name = type(self).__name__
            raise RuntimeError(
                f"a two-sided {name} reads the future and has no recurrent view: use bidirectional=False"
            )
        self._made = self.discretise(), self._state_of_parameters()

    @property
    def discrete(self) -> Any:
        """What setup_step has made; RuntimeError if it was not called, or not since a parameter changed."""
        if self._made is None:
            raise RuntimeError("the layer is not discretised: call setup_step() first")
        made, of = self._made
        if of != self._state_of_parameters():
            raise RuntimeError("the parameters have changed since setup_step(): call it again")
        return made

    def _state_of_parameters(self) -> tuple:
        """Another one after training, loading, fitting to another rate, or a move to another device or precision."""
        return tuple((p.data_ptr(), p._version) for p in self.parameters(recurse=False))


def kernel_groups(
    lr: float | Mapping[str, float | None] | None, kinds: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """What a state-space layer declares of its kernel: no weight decay, and for each parameter the rate of its kind.

    lr      learning rate of each kind; a number for all, None for the optimiser's
    kinds   name of the parameter -> kind
    raises  ValueError for a rate of a kind that the layer does not have
    """
    known = set(kinds.values())
    rates = dict(lr) if isinstance(lr, Mapping) else dict.fromkeys(known, lr)
    if stray := set(rates) - known:
        raise ValueError(f"lr: {', '.join(sorted(stray))} is none of {', '.join(sorted(known))}")
    options = {name: {"weight_decay": 0.0} for name in kinds}
    for name, kind in kinds.items():
        if (rate := rates.get(kind)) is not None:
            options[name]["lr"] = rate
    return options
