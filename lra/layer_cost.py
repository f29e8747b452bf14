"""Time and memory of one training step of one layer, and the table that sets LSSL against S4 (S4 paper, table 2).

Appendix D.1 of the paper: one layer with H features, LSSL with a state of H, S4 with one of H / 4, which gives both as
many parameters; one forward and one backward pass. It names neither batch nor length.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lra.efficiency import Figure

MakeLayer = Callable[[int, int], nn.Module]


@dataclass(frozen=True)
class LayerCost:
    """One forward and backward pass: median milliseconds, and megabytes (10^6) at the peak, parameters included."""

    milliseconds: float
    megabytes: float


def layer_cost(layer: nn.Module, batch: int, length: int, width: int, *, repeats: int = 5) -> LayerCost:
    """Cost of a step of a mixer on (batch, length, width) of noise, on the device where it lives."""
    device = next(layer.parameters()).device
    x = torch.randn(batch, length, width, device=device, requires_grad=True)
    mask = torch.ones(batch, length, dtype=torch.bool, device=device)
    # the first call compiles what there is to compile
    step(layer, x, mask)
    step(layer, x, mask)
    held = sum(t.numel() * t.element_size() for t in (*layer.parameters(), *layer.buffers(), x))
    peak = peak_bytes(lambda: step(layer, x, mask), device)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step(layer, x, mask)
        seconds.append(time.perf_counter() - start)
    return LayerCost(1e3 * statistics.median(seconds), (held + peak) / 1e6)


def step(layer: nn.Module, x: Tensor, mask: Tensor) -> None:
    """Forward and backward, to the end of the work on the device; gradients are dropped."""
    layer(x, mask).sum().backward()
    layer.zero_grad(set_to_none=True)
    x.grad = None
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)


def peak_bytes(work: Callable[[], None], device: torch.device) -> int:
    """The most that tensors made by `work` held at one time, from the allocator's own account."""
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


def lssl_table(
    layers: Mapping[str, MakeLayer],
    dims: list[int],
    *,
    batch: int,
    length: int,
    device: torch.device | str,
    repeats: int = 5,
    report: Callable[[str], None] = lambda line: None,
) -> list[Figure]:
    """Cells of the paper's table 2 for the layers "LSSL" and "S4", and their ratio.

    layers  name -> maker of a mixer from (width, length)
    report  is told each measurement as it is made
    """
    figures = []
    for dim in dims:
        cost = {}
        for name in ("LSSL", "S4"):
            torch.manual_seed(0)
            layer = layers[name](dim, length).to(device)
            cost[name] = layer_cost(layer, batch, length, dim, repeats=repeats)
            report(f"{name} {dim}: {cost[name].milliseconds:.1f} ms, {cost[name].megabytes:.1f} MB")
            del layer
        ratio = LayerCost(
            cost["LSSL"].milliseconds / cost["S4"].milliseconds, cost["LSSL"].megabytes / cost["S4"].megabytes
        )
        for name, value in (*cost.items(), ("Ratio", ratio)):
            time_unit, memory_unit = ("x", "x") if name == "Ratio" else ("ms", "MB")
            step_column, memory_column = f"training step, dim {dim}", f"memory, dim {dim}"
            figures.append(Figure(row=name, column=step_column, value=value.milliseconds, unit=time_unit))
            figures.append(Figure(row=name, column=memory_column, value=value.megabytes, unit=memory_unit))
    return figures
