"""A stand-in for CUDA graphs on the CPU: records every PyTorch operator and replays them in the same memory.

As with a CUDA graph, recording has no effect, a replay reads and writes the tensors of the recording without running
any Python in between, and a value that the host reads cannot be recorded.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

SYNCHRONISING = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "is_nonzero")


class Operations(TorchDispatchMode):
    """Records every operator with its arguments and the memory of its results."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[tuple] = []
        self.allocated: set[int] = set()  # addresses of memory allocated during the recording
        self.overwritten: dict[int, tuple[Tensor, Tensor]] = {}  # address -> tensor, its values before

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.name()
        if any(word in name for word in SYNCHRONISING):
            raise RuntimeError(f"{name} waits for the device")
        for i, argument in enumerate(function._schema.arguments):
            written = argument.alias_info is not None and argument.alias_info.is_write
            # batch norm writes to these without declaring it
            written |= argument.name in ("running_mean", "running_var")
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            for x in tree_leaves(value) if written and value is not None else ():
                address = x.untyped_storage().data_ptr()
                if address not in self.allocated and address not in self.overwritten:
                    self.overwritten[address] = (x, x.clone())
        arguments = views((args, kwargs))
        result = function(*args, **kwargs)
        known = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        fresh = [
            isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in known and x.numel() > 0
            for x in tree_leaves(result)
        ]
        self.allocated |= {
            x.untyped_storage().data_ptr() for x, new in zip(tree_leaves(result), fresh, strict=True) if new
        }
        places = [x.detach() if new else None for x, new in zip(tree_leaves(result), fresh, strict=True)]
        self.recorded.append((function, *arguments, places))
        return result

    def replay(self) -> None:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for function, *arguments, places in self.recorded:
                args, kwargs = views(arguments)
                for place, x in zip(places, tree_leaves(function(*args, **kwargs)), strict=True):
                    if place is not None:
                        place.copy_(x)


def views(arguments: Any) -> Any:
    """The arguments with new tensors on the same memory, because some change their shape later."""
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, arguments)


def record(work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """A `record` argument for `lra.training.cuda_graphs.GraphReplay`."""
    random_state, operations = torch.get_rng_state(), Operations()
    with operations:
        result = work()
    torch.set_rng_state(random_state)
    with torch.no_grad():
        for x, former in operations.overwritten.values():
            x.copy_(former)
    return operations.replay, result
