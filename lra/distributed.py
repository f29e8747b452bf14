"""Distributed helpers: rank, world size, all-reduce sums. No-ops in a single process.

Each process works on its share of every batch; PyTorch's DistributedDataParallel averages the gradients. Sums over a
batch and decisions to stop or to save go through here, so that the result is that of a single process.
"""

import os
import subprocess
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that train this model; 1 outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process; 0 outside a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main_process() -> bool:
    """Whether this process has rank 0; works before the process group exists, from the launcher's environment."""
    environment = os.environ
    if "RANK" in environment:  # torchrun
        return environment["RANK"] == "0"
    if "LOCAL_RANK" in environment or "NODE_RANK" in environment:  # Lightning, or a user with several machines
        return environment.get("LOCAL_RANK", "0") == environment.get("NODE_RANK", "0") == "0"
    return environment.get("SLURM_PROCID", "0") == "0"


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # every process's loss depends on every process's summand
        return _AllReduceSum.apply(gradient)


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of `x` over all processes; differentiable. Collective: every process must call it, in the same order."""
    return x if world_size() == 1 else _AllReduceSum.apply(x)


def all_reduce_max(numbers: list[float], device: torch.device) -> list[float]:
    """Maximum of each number over all processes. Collective.

    device  of the model, where the process group communicates
    """
    if world_size() == 1:
        return numbers
    maxima = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
    return maxima.tolist()


def all_gather(value: Any) -> list[Any]:
    """The values of all processes, by rank. Collective."""
    values: list[Any] = [value] * world_size()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def destroy_process_group(launcher: Any) -> None:
    """End the process group, and the processes that Lightning's `launcher` started; a new group may be formed then.

    A process that does not end within 20 seconds is killed.
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
