"""Time and peak memory of a function, on any device."""

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

# otherwise the profiler prints that it starts, stops and finds no GPU
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


class Measurement(NamedTuple):
    """Median seconds of a call, seconds of the first call (with compilation), and peak bytes it allocated."""

    seconds: float
    first_seconds: float
    peak_bytes: int


def timed(work: Callable[[], object], device: torch.device | str, *, repeats: int = 5) -> Measurement:
    """Time and memory of `work()` after a warm-up; on CUDA until the device has finished."""
    device = torch.device(device)
    first = seconds(work, device)
    work()
    times = [seconds(work, device) for _ in range(repeats)]
    return Measurement(statistics.median(times), first, peak_bytes(lambda: seconds(work, device), device))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of one call."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Peak of the bytes that `work` allocates for tensors, beyond those allocated before.

    Freeing tensors of an earlier call, such as gradients, counts as negative: `work` must free what it leaves behind.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    allocated = peak = 0
    for change in _allocations(work):
        allocated += change
        peak = max(peak, allocated)
    return peak


def _allocations(work: Callable[[], object]) -> list[int]:
    """Bytes allocated (positive) and freed (negative) on the CPU while `work` runs, in order.

    torch.profiler's public interface also records every operation, gigabytes for a recurrence over 4096 positions. Its
    inner calls accept a scope: allocations are always recorded, operations only in the user scope.
    """
    settings = profiler.profile(profile_memory=True)
    profiler._prepare_profiler(settings.config(), settings.kineto_activities)
    enable: Any = profiler._enable_profiler  # its declared type lacks the last argument
    enable(settings.config(), settings.kineto_activities, {RecordScope.USER_SCOPE})
    try:
        work()
    finally:
        events: list[Any] = profiler._disable_profiler().events()
    return [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()) if event.name() == "[memory]"]


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory so far: of the accelerator, or of this process if there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
