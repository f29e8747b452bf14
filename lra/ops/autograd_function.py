"""Base classes of our autograd functions, which make them work under torch.func: vmap, grad and per-sample gradients.

A function and its gradient are two autograd functions, because both need a rule for vmap. Their code calls foreign
loops and writes into buffers, which vmap cannot trace; the default rule is one call for each element.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def transforms_active() -> bool:
    """True inside torch.func.vmap, grad and the like."""
    return torch._C._are_functorch_transforms_active()


def can_branch(x: Tensor) -> bool:
    """Whether the program may depend on the values of x: not when compiled, on meta, or inside torch.func."""
    return not (torch.compiler.is_compiling() or x.is_meta or transforms_active())


class Function(torch.autograd.Function):
    """Define `forward(*args)`, `setup_context` and `backward`."""

    @classmethod
    def apply(cls, *args: Any) -> Any:
        if transforms_active():
            return super().apply(*args)
        # go straight to the implementation: the inspection of the signature takes 20 us, the rest of a call 5
        return super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return call_for_each(cls.apply, info.batch_size, in_dims, args)


class Gradient(Function):
    """The gradient of a Function: define `forward` and `name`."""

    name: str

    @classmethod
    def backward(cls, ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(f"{cls.name} can be differentiated only once; hint: do not ask for second derivatives")


def call_for_each(
    function: Callable[..., Any], size: int, in_dims: Sequence[int | None], args: Sequence[Any]
) -> tuple[Any, Any]:
    """The rule for vmap that calls the function once for each element and stacks the results."""
    results = []
    for i in range(size):
        results.append(
            function(*(x if dim is None else x.select(dim, i) for x, dim in zip(args, in_dims, strict=True)))
        )
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])


def leading_batch(x: Tensor, dim: int | None, size: int) -> Tensor:
    """x with the dimension that vmap maps over in front; repeated, without a copy, if it has none."""
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
