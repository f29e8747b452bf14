"""The recurrent view of a layer: what was made of its parameters for steps holds as long as they are what they were."""

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
