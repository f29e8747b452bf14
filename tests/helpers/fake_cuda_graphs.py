"""A recorder of passes for tests without a GPU: it notes every operation of PyTorch and repeats them, in their memory.

As with a CUDA graph, recording is without effect, a repetition reads and writes the tensors of the recording, Python in
between does not run again, and a value that the host asks for cannot be recorded.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

HOST = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "is_nonzero")


class Operations(TorchDispatchMode):
    """Every operation under it, with its arguments and where its results lie."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple] = []
        self.made: set[int] = set()  # addresses of memory that came into being under it
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # what was written to: the tensor, its former values

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.name()
        if any(word in name for word in HOST):
            raise RuntimeError(f"{name} waits for the device")
        for i, argument in enumerate(function._schema.arguments):
            written = argument.alias_info is not None and argument.alias_info.is_write
            # batch norm writes to them undeclared
            written |= argument.name in ("running_mean", "running_var")
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            for x in tree_leaves(value) if written and value is not None else ():
                address = x.untyped_storage().data_ptr()
                if address not in self.made and address not in self.before:
                    self.before[address] = (x, x.clone())
        arguments = views((args, kwargs))
        result = function(*args, **kwargs)
        known = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        fresh = [
            isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in known and x.numel() > 0
            for x in tree_leaves(result)
        ]
        self.made |= {x.untyped_storage().data_ptr() for x, new in zip(tree_leaves(result), fresh, strict=True) if new}
        places = [x.detach() if new else None for x, new in zip(tree_leaves(result), fresh, strict=True)]
        self.noted.append((function, *arguments, places))
        return result

    def repeat(self) -> None:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for function, *arguments, places in self.noted:
                args, kwargs = views(arguments)
                for place, x in zip(places, tree_leaves(function(*args, **kwargs)), strict=True):
                    if place is not None:
                        place.copy_(x)


def views(arguments: Any) -> Any:
    """The same with other tensors on the same memory: of some, the shape is changed later on."""
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, arguments)


def record(work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """The recorder `lra.training.cuda_graphs.Graphs` takes instead of CUDA's."""
    drawn, operations = torch.get_rng_state(), Operations()
    with operations:
        result = work()
    torch.set_rng_state(drawn)
    with torch.no_grad():
        for x, former in operations.before.values():
            x.copy_(former)
    return operations.repeat, result
