"""How long a piece of work takes and what it holds, on any device."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from lra.layer_cost import peak_bytes


class Cost(NamedTuple):
    """Median seconds, the first call's seconds (compilation and all), and bytes held at the peak by what it made."""

    seconds: float
    first_seconds: float
    peak_bytes: int


def cost(work: Callable[[], object], device: torch.device | str, *, repeats: int = 5) -> Cost:
    """Cost of a call of `work`, warm; on CUDA to the end of the work on the device."""
    device = torch.device(device)
    first = seconds(work, device)
    work()
    times = [seconds(work, device) for _ in range(repeats)]
    return Cost(statistics.median(times), first, peak_bytes(lambda: seconds(work, device), device))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """One call by the wall clock."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
