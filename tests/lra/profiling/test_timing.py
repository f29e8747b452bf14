"""Peak memory, and the LSSL table measured with it."""

import argparse
import resource
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import lssl
from lra.paths import ROOT
from lra.profiling.timing import peak_bytes, peak_memory_mib
from lra.records.published import load_published


def test_peak_counts_simultaneous_allocations():
    def work():
        a = torch.ones(1000, 1000)
        b = a + 1
        del a
        b.add_(1)
        c = b * 2
        del b, c

    assert peak_bytes(work, torch.device("cpu")) == pytest.approx(2 * 4e6, rel=0.05)


@pytest.mark.parametrize(("system", "unit"), [("linux", 2**10), ("darwin", 1)])
def test_process_peak_is_in_mib_on_every_system(system, unit, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=3 * 2**20 // unit))
    assert peak_memory_mib(torch.device("cpu")) == 3


def test_peak_counts_saved_activations():
    x = torch.ones(1000, 1000, requires_grad=True)

    def work():
        x.grad = None
        x.exp().exp().mean().backward()

    # both exponentials, then the gradient of each and of x
    assert 3 * 4e6 <= peak_bytes(work, torch.device("cpu")) <= 5 * 4e6


def test_peak_equals_the_public_profilers():
    net = torch.nn.GRU(8, 8, batch_first=True)
    x = torch.ones(2, 30, 8)

    def work():
        torch.autograd.grad(net(x)[0].sum(), list(net.parameters()))

    work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    allocated, peaks = 0, []
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            allocated += event.nbytes()
            peaks.append(allocated)
    assert len(peaks) > 1000
    assert peak_bytes(work, torch.device("cpu")) == max(peaks)


def test_profiler_stops_after_a_failure():
    def fails():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        peak_bytes(fails, torch.device("cpu"))
    assert peak_bytes(lambda: torch.ones(1000), torch.device("cpu")) == 4000


def test_lssl_table_has_the_papers_cells():
    row = {f"{name} {unit}": 1.0 for name in ("LSSL", "S4") for unit in ("ms", "MB")}
    rows = [{"H": H, **row, "ms ratio": 1.0, "MB ratio": 1.0} for H in (128, 256, 512)]
    cells = {(c["row"], c["column"], c["unit"]) for c in lssl.figures(rows)}
    published = load_published(ROOT / "results/published").quantities
    assert cells == {(q.row, q.column, q.unit) for q in published if q.table == lssl.TABLE}


def test_lssl_memory_grows_faster_than_s4s():
    parser = argparse.ArgumentParser()
    lssl.arguments(parser)
    small = ["--dims", "16", "64", "--L", "64", "--repeats", "1", "--backend", "reference"]
    rows = lssl.run(parser.parse_args(small))
    assert [row["H"] for row in rows] == [16, 64]
    assert rows[1]["MB ratio"] > 2 * rows[0]["MB ratio"]
    assert all(row["ms ratio"] > 0 for row in rows)
