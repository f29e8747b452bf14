"""How long a piece of work takes and what it holds, on any device."""

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch._C._profiler import RecordScope
from torch.autograd import profiler

# the profiler otherwise tells the terminal that it starts, stops and finds no GPU
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


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


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most that tensors made by `work` held at one time, by the allocator, beyond what was there before.

    What a call leaves behind for the next to free, such as gradients, would be taken off: `work` is to free it itself.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    held = peak = 0
    for change in _allocations(work):
        held += change
        peak = max(peak, held)
    return peak


def _allocations(work: Callable[[], object]) -> list[int]:
    """Bytes taken (positive) and given back (negative) on the CPU while `work` runs, in order.

    torch.profiler would note every operation, too: of a recurrence over 4096 positions gigabytes. It is started by its
    inner calls, which can be told what to note: the allocations, which always are, and of operations only those that a
    program marks.
    """
    settings = profiler.profile(profile_memory=True)
    profiler._prepare_profiler(settings.config(), settings.kineto_activities)
    enable: Any = profiler._enable_profiler  # its declared type leaves out the last argument
    enable(settings.config(), settings.kineto_activities, {RecordScope.USER_SCOPE})
    try:
        work()
    finally:
        noted: list[Any] = profiler._disable_profiler().events()
    return [event.nbytes() for event in sorted(noted, key=lambda e: e.start_ns()) if event.name() == "[memory]"]


def peak_memory_mib(device: torch.device) -> float:
    """Most memory held so far: on the accelerator, or of this process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
