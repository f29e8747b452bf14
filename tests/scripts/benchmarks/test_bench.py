"""The benchmarks run at small sizes and say what they measured."""

import argparse
import importlib
import json
import math
from itertools import accumulate

import pytest
import torch

from helpers.compose import compose
from lra.profiling import timing
from lra.profiling.timing import peak_bytes

SMALL = {
    "kernel": ["--H", "4", "--N", "4", "--L", "64", "--backends", "compiled", "reference"],
    "layer": ["--shapes", "2,4,64", "--N", "4", "--backends", "compiled", "reference"],
    "convolution": ["--shapes", "2,4,64", "3,2,50"],
    "model": ["--task", "listops", "--model", "s4", "--scale", "smoke", "--backends", "compiled", "reference"],
    "step": ["--task", "listops", "image", "--model", "s4", "transformer", "--scale", "smoke", "--B", "2"],
}


def run(name, *words):
    module = importlib.import_module(f"benchmarks.{name}")
    parser = argparse.ArgumentParser()
    module.arguments(parser)
    return module, module.run(parser.parse_args([*SMALL.get(name, []), "--repeats", "1", "--threads", "1", *words]))


@pytest.mark.parametrize("name", SMALL)
def test_benchmark_gives_a_row_for_each_choice_and_positive_figures(name, tmp_path):
    module, rows = run(name)
    assert len(rows) == {"step": 4}.get(name, 2)
    for row in rows:
        assert all(value > 0 and math.isfinite(value) for value in row.values() if isinstance(value, float)), row
        assert row.get("value error", 0) < 1e-5
    if hasattr(module, "plot"):
        module.plot(rows, tmp_path / "plot.png")
        assert (tmp_path / "plot.png").stat().st_size > 5000


@pytest.mark.parametrize("name", ["kernel", "layer", "lssl", "model", "step"])
def test_no_call_frees_what_the_one_before_left(name, monkeypatch):
    """On CUDA that would be taken off its memory."""
    lowest = []

    def watched(work, device):
        # what is freed shows where its making was seen
        timing._allocations(work)
        lowest.append(min(accumulate(timing._allocations(work))))
        return peak_bytes(work, device)

    for place in (timing, importlib.import_module(f"benchmarks.{name}")):
        monkeypatch.setattr(place, "peak_bytes", watched, raising=False)
    run(name, *(["--dims", "8", "--L", "32"] if name == "lssl" else []))
    assert lowest
    assert min(lowest) >= 0


def test_share_of_the_floor_is_what_its_formula_says(monkeypatch):
    monkeypatch.setattr("benchmarks.step.byte_rate", lambda device: 1e9)
    monkeypatch.setattr("benchmarks.step.flop_rate", lambda device, dtype: 1e30)
    _, (row, *_) = run("step")
    cfg = compose("task=listops", "model=s4", "scale=smoke")
    layers, width = cfg.model.n_layers, cfg.model.d_model
    moved = 12 * 2 * row["L"] * width * layers * 4 + 40 * row["parameters"]
    assert row["floor ms"] == pytest.approx(1e3 * moved / 1e9)
    assert row["share of floor"] == pytest.approx(row["floor ms"] / row["ms"])


def test_ways_of_a_step_are_compared_with_the_first(tmp_path):
    ways = ["float32", "bf16"]
    module, rows = run("step", "--task", "listops", "--model", "s4", "--as", *ways)
    assert [row["as"] for row in rows] == ways
    # one round, so the ratio of medians is the median of ratios
    assert rows[1]["times as fast"] == pytest.approx(rows[0]["ms"] / rows[1]["ms"])
    assert rows[0]["times as fast"] == 1
    assert rows[1]["GB"] < rows[0]["GB"]
    module.plot(rows, tmp_path / "plot.png")


def test_a_step_on_a_graph_needs_cuda():
    with pytest.raises(ValueError, match="--as graph: only CUDA has graphs"):
        run("step", "--as", "float32", "graph")


def test_a_profile_names_the_operators_and_leaves_a_trace(tmp_path, capsys):
    run("step", "--task", "listops", "--model", "s4", "--profile", str(tmp_path / "trace.json"))
    assert "aten::" in capsys.readouterr().out
    assert json.loads((tmp_path / "trace_s4_listops.json").read_text())["traceEvents"]


def test_the_convolution_that_keeps_its_spectra_is_the_same_convolution():
    bench = importlib.import_module("benchmarks.convolution")
    torch.manual_seed(0)
    inputs = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((3, 2, 40), (2, 2, 40), (2,))]
    weight = torch.randn(3, 2, 40, dtype=torch.float64)
    ours, kept = bench.long_conv(*inputs), bench.Keeping.apply(*inputs)
    torch.testing.assert_close(ours, kept)
    gradients = (torch.autograd.grad(y, inputs, weight) for y in (ours, kept))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_a_cold_first_call_builds_the_loops_where_nothing_was_built(monkeypatch):
    from lra.ops.ssm_kernels import cpp

    built = []
    for function in (cpp.library, cpp.unavailable_reason):
        function.cache_clear()
    real = cpp.subprocess.run
    monkeypatch.setattr(cpp.subprocess, "run", lambda *a, **k: built.append(a) or real(*a, **k))
    monkeypatch.setenv("XDG_CACHE_HOME", "nowhere")
    monkeypatch.setenv("TRITON_CACHE_DIR", "nowhere")
    _, rows = run("kernel", "--cold", "--backends", "compiled")
    # for one output and for two
    assert sum("-DREAL=float" in words[0] for words in built) == 2
    assert rows[0]["first call s"] > 0.2


@pytest.mark.parametrize("shape", ["2,4", "2,4,x", "0,4,64"])
@pytest.mark.parametrize("name", ["layer", "convolution"])
def test_a_shape_that_is_none_is_named(name, shape):
    with pytest.raises(ValueError, match=f"--shapes {shape}: three sizes from 1 on are needed"):
        run(name, "--shapes", shape)


@pytest.mark.parametrize("words", [("--repeats", "0"), ("--threads", "-1")])
def test_counts_start_at_one(words, capsys):
    with pytest.raises(SystemExit):
        run("kernel", *words)
    assert f"{words[0]}: '{words[1]}': a whole number from 1 on is needed" in capsys.readouterr().err


def test_a_model_without_kernel_backends_is_refused():
    with pytest.raises(ValueError, match="transformer has no kernel backend"):
        run("model", "--model", "transformer", "--task", "listops")


def test_layer_errors_are_against_float64():
    """A layer whose output is off by a thousandth in float32 is reported so."""
    bench = importlib.import_module("benchmarks.layer")

    class Off(bench.S4):
        def mix(self, y):
            return super().mix(y) * (1.001 if y.dtype == torch.float32 else 1.0)

    torch.manual_seed(0)
    value, gradient = bench.relative_errors(Off(8, 32, d_state=4, backend="reference"), 32)
    assert value == pytest.approx(1e-3, rel=0.05)
    assert gradient == pytest.approx(1e-3, rel=0.2)
