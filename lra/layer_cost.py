"""The memory that a piece of work holds at its peak, from the allocator's own account."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

# the profiler otherwise tells the terminal that it starts, stops and finds no GPU
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most that tensors made by `work` held at one time, beyond what was there before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    held = peak = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak
