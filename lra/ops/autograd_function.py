"""Base classes of our autograd functions, which make them work under torch.func: vmap, grad and per-sample gradients.

A function and its gradient are two autograd functions, because both need a rule for vmap. Their code calls foreign
loops and writes into buffers, which vmap cannot trace; the default rule is one call for each element.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef


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
        # go straight to the implementation: the inspection of the signature takes 20 us, the rest of a call 5;
        # in the backward pass of torch.func.vjp, saved tensors are in a wrapper that has ended
        args = torch._functorch.utils.unwrap_dead_wrappers(args)
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
    def apply(cls, *args: Any) -> Any:
        if torch.is_grad_enabled() or transforms_active():
            return super().apply(*args)
        # an ordinary backward pass: nothing to record
        return cls.forward(*torch._functorch.utils.unwrap_dead_wrappers(args))

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


def operator(name: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Register a function as an operator, which torch.compile and torch.export do not look into.

    Outside them it would only cost time: some 250 us a call, an autograd function 10.
    """

    def register(function: Callable[..., Any]) -> CustomOpDef:
        @functools.wraps(function)
        def run(*args: Any) -> Any:
            # the first call of a compiled function runs below conjugate views, which then read as not conjugated
            with torch._C._PreserveDispatchKeyGuard():
                for key in (torch._C.DispatchKey.Conjugate, torch._C.DispatchKey.Negative):
                    torch._C._dispatch_tls_set_dispatch_key_excluded(key, False)
                return function(*args)

        return torch.library.custom_op(name, run, mutates_args=())

    return register
