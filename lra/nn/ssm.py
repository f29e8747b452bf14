"""Shared by the state-space layers: the recurrent view, and optimiser settings of kernel parameters."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import UserError


class Recurrent(nn.Module):
    """A layer that can process a sequence step by step: `setup_step`, `default_state`, then `step` for each position.

    Subclasses define `discretise`; its result is available to their `step` as `discrete`.
    """

    bidirectional: bool
    _discrete: tuple[Any, list[Tensor]] | None = None

    def discretise(self) -> Any:
        raise NotImplementedError

    @torch.no_grad()
    def setup_step(self) -> None:
        """Discretise for `step`; call it again after the parameters change.

        raises  RuntimeError for a two-sided layer
        """
        if self.bidirectional:
            raise RuntimeError(f"a two-sided {type(self).__name__} reads the future; hint: bidirectional=False")
        # copies: a discrete matrix may be a view of a parameter
        self._discrete = copy.deepcopy((self.discretise(), [p.detach() for p in self.parameters(recurse=False)]))

    @property
    def discrete(self) -> Any:
        """The result of `discretise`; RuntimeError if a parameter changed since setup_step, or it was not called.

        Values are compared at each step: version counters miss changes by `.data` and fused optimisers, and addresses
        differ in a copy of the layer.
        """
        if self._discrete is None:
            raise RuntimeError("the layer is not discretised; hint: call setup_step()")
        discrete, before = self._discrete
        if not all(map(_same, before, self.parameters(recurse=False))):
            raise RuntimeError("the parameters have changed since setup_step(); hint: call it again")
        return discrete


def _same(before: Tensor, now: Tensor) -> bool:
    return before.dtype == now.dtype and before.device == now.device and torch.equal(before, now)


class FixedLength(Recurrent):
    """A recurrent layer whose parameters depend on the length of its kernel, which is saved with them."""

    length: int

    def prepare(self, length: int, *, rate: float = 1.0) -> None:
        raise NotImplementedError

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.length, device="cpu")

    def set_extra_state(self, length: Tensor) -> None:
        """Load the length of the loaded parameters; fit them to this layer's own length if that is larger.

        raises  ValueError where they cannot be fitted
        """
        own, self.length = self.length, int(length)
        if self.length >= own:
            return
        try:
            self.prepare(own)
        except ValueError as error:
            raise UserError(
                f"weights for {int(length)} positions do not fit a {type(self).__name__} for {own}: {error}",
                hint=f"max_len={int(length)}",
            ) from None


def kernel_groups(
    lr: float | Mapping[str, float | None] | None, kinds: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """The `optim` of a state-space layer: no weight decay, and a learning rate by kind of parameter.

    lr      kind -> learning rate; a number for all kinds, None for the optimiser's default
    kinds   name of the parameter -> kind
    raises  ValueError for a kind that the layer does not have
    """
    known = set(kinds.values())
    rates = dict(lr) if isinstance(lr, Mapping) else dict.fromkeys(known, lr)
    if unknown := set(rates) - known:
        raise ValueError(f"lr: {', '.join(sorted(unknown))} is none of {', '.join(sorted(known))}")
    options = {name: {"weight_decay": 0.0} for name in kinds}
    for name, kind in kinds.items():
        if (rate := rates.get(kind)) is not None:
            options[name]["lr"] = rate
    return options
