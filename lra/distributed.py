"""What several processes that train one model count and decide together; a process alone only counts itself.

Each process works on its share of every batch; gradients are averaged by PyTorch's DistributedDataParallel. The rest,
which must be as if one process had done all, goes through here: sums over a batch, and decisions to stop or to save.
"""

import os
import subprocess
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """How many processes train this model; 1 outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if processes() > 1 else 0


def first() -> bool:
    """Is this the process that speaks for all? Known before they meet, from what the launcher has set."""
    environment = os.environ
    if "RANK" in environment:  # torchrun
        return environment["RANK"] == "0"
    if "LOCAL_RANK" in environment or "NODE_RANK" in environment:  # Lightning, or a user with several machines
        return environment.get("LOCAL_RANK", "0") == environment.get("NODE_RANK", "0") == "0"
    return environment.get("SLURM_PROCID", "0") == "0"


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # every process's loss depends on every process's summand
        return _Total.apply(gradient)


def total(x: Tensor) -> Tensor:
    """Sum of `x` over all processes; differentiable. Every process must call it, in the same order."""
    return x if processes() == 1 else _Total.apply(x)


def largest(numbers: list[float], device: torch.device) -> list[float]:
    """The largest of each number over all processes, so that all decide alike. Every process must call it.

    device  where the process group talks: that of the model
    """
    if processes() == 1:
        return numbers
    agreed = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
    return agreed.tolist()


def gathered(thing: Any) -> list[Any]:
    """What each process has, in the order of their ranks. Every process must call it."""
    things: list[Any] = [thing] * processes()
    if len(things) > 1:
        dist.all_gather_object(things, thing)
    return things


def dissolve(launcher: Any) -> None:
    """End the process group; of processes that Lightning's `launcher` started, wait for the end.

    One that does not end, because this process left it waiting, is killed. Afterwards another group may be formed.
    """
    children = list(getattr(launcher, "procs", ()))
    if children:
        launcher.procs.clear()  # Lightning's observer kills this process if one of them fails
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    for child in children:
        try:
            child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            child.kill()
    if children:
        for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
