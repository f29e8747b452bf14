"""Shared by the state-space layers: the recurrent view, and optimiser settings of kernel parameters."""

import copy
import operator
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from lra.errors import UserError
from lra.nn.blocks import require_causal
from lra.ops.state_passing import Blocks, blocks, pass_state


class Discretised:
    """The result of `discretise`, with what is needed to notice that the parameters have changed since.

    before  copies of the parameters and buffers
    stamp   cheap signs that they are the same tensors with the same values; None: compare the values
    blocks  for `prefill`, made when first used
    """

    def __init__(self, value: Any, before: list[Tensor]):
        self.value, self.before = value, before
        self.stamp: tuple[Any, ...] | None = None
        self.blocks: Blocks | None = None


class Recurrent(nn.Module):
    """A layer that can process a sequence step by step: `setup_step`, `default_state`, then `step` for each position.

    Subclasses define `discretise`; its result is available to their `step` as `discrete`.
    """

    bidirectional: bool
    D: Tensor
    _discrete: Discretised | None = None

    @property
    def causal(self) -> bool:
        """True if no position reads a later one."""
        return not self.bidirectional

    def discretise(self) -> Any:
        raise NotImplementedError

    def linear_system(self) -> tuple[Tensor, Tensor, Tensor]:
        """A (H, N) diagonal or (H, N, N), B and C (H, N), in float64, of x_t = A x_(t-1) + B u_t, y_t = Re C x_t."""
        raise NotImplementedError

    @torch.no_grad()
    def setup_step(self) -> None:
        """Discretise for `step` and `prefill`; call it again after the parameters change.

        raises  RuntimeError for a two-sided layer
        """
        require_causal(self, "bidirectional=False")
        # copies: a discrete matrix may be a view of a parameter
        before = [p.detach() for p in self._own_tensors()]
        self._discrete = Discretised(*copy.deepcopy((self.discretise(), before)))
        self._discrete.stamp = self._stamp()

    @property
    def discrete(self) -> Any:
        """The result of `discretise`; RuntimeError if a parameter changed since setup_step, or it was not called."""
        return self._current().value

    def _current(self) -> Discretised:
        """Values are compared only where an optimiser has stepped, a tensor's version or address has changed, the mode
        was set, or a sequence begins (`default_state`, `prefill`). A change through `.data` in the middle of a sequence
        is noticed when the next one begins.
        """
        if (found := self._discrete) is None:
            raise RuntimeError("the layer is not discretised; hint: call setup_step()")
        stamp = self._stamp()
        if stamp is None or found.stamp != stamp:
            if not all(map(_same, found.before, self._own_tensors())):
                raise RuntimeError("the parameters have changed since setup_step(); hint: call it again")
            found.stamp = stamp
        return found

    def _own_tensors(self) -> list[Tensor]:
        return [t for t in (*self._parameters.values(), *self._buffers.values()) if t is not None]

    def _stamp(self) -> tuple[Any, ...] | None:
        """None where tensors made in inference mode, which have no version, make it impossible."""
        tensors = self._own_tensors()
        try:
            return _optimiser_steps, *map(_version, tensors), *map(Tensor.data_ptr, tensors)
        except RuntimeError:
            return None

    def zero_state(self, batch: int) -> Any:
        raise NotImplementedError

    def default_state(self, batch: int) -> Any:
        """State before the first position: zeros (batch, ...)."""
        self.begin_sequence()
        return self.zero_state(batch)

    def begin_sequence(self) -> None:
        """Compare the values of the parameters at the next step or prefill."""
        if self._discrete is not None:
            self._discrete.stamp = None

    def train(self, mode: bool = True) -> Self:
        self.begin_sequence()
        return super().train(mode)

    def carry(self, y: Tensor, u: Tensor, mask: Tensor | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs and last state of a recurrence that starts from a state, from its outputs y (B, H, L) from zero.

        u  (B, L, H) inputs
        """
        self.begin_sequence()
        current = self._current()
        if current.blocks is None:
            A, B, C = self.linear_system()
            dtype = torch.promote_types(self.D.dtype, torch.float32)
            current.blocks = blocks(A, B, C, dtype.to_complex() if A.is_complex() else dtype)
        added, state = pass_state(current.blocks, u, mask, state)
        return y if added is None else y + added.to(y.dtype), state


_version = operator.attrgetter("_version")

# an optimiser may change parameters in place without changing their version: the fused ones do
_optimiser_steps = 0


def _count_step(*_: Any) -> None:
    global _optimiser_steps
    _optimiser_steps += 1


register_optimizer_step_post_hook(_count_step)


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
