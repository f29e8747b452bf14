"""The benchmarks at small sizes."""

import argparse
import importlib
import json
import math
from itertools import accumulate

import pytest
import torch

from benchmarks import step
from helpers.compose import compose
from lra.profiling import timing
from lra.profiling.timing import peak_bytes

SMALL = {
    "kernel": ["--H", "4", "--N", "4", "--L", "64", "--backends", "compiled", "reference"],
    "layer": ["--shapes", "2,4,64", "--N", "4", "--backends", "compiled", "reference"],
    "convolution": ["--shapes", "2,4,64", "3,2,50"],
    "model": ["--task", "listops", "--model", "s4", "--scale", "smoke", "--backends", "compiled", "reference"],
    "step": ["--task", "listops", "image", "--model", "s4", "transformer", "--scale", "smoke", "--B", "2"],
    "stepping": ["--B", "1", "--H", "4", "--N", "4", "--L", "64"],
    "generate": ["--L", "24", "--B", "1", "--H", "8", "--layers", "1", "--points", "2", "--way", "Transformer", "S4"],
    "lssl": ["--dims", "8", "--L", "32"],
}
ONE_STEP = ["--task", "listops", "--model", "s4"]


def run(name, *words):
    module = importlib.import_module(f"benchmarks.{name}")
    parser = argparse.ArgumentParser()
    module.arguments(parser)
    return module, module.run(parser.parse_args([*SMALL[name], "--repeats", "1", "--threads", "1", *words]))


@pytest.mark.parametrize("name", [name for name in SMALL if name != "lssl"])
def test_rows_and_plot(name, tmp_path):
    module, rows = run(name)
    assert len(rows) == (4 if name == "step" else 2)
    for row in rows:
        assert all(value > 0 and math.isfinite(value) for value in row.values() if isinstance(value, float)), row
        assert max(row.get("value error", 0), row.get("error", 0)) < 1e-5
    if hasattr(module, "plot"):
        module.plot(rows, tmp_path / "plot.png")
        assert (tmp_path / "plot.png").stat().st_size > 5000


@pytest.mark.parametrize("name", ["kernel", "layer", "lssl", "model", "step"])
def test_calls_free_their_own_memory(name, monkeypatch):
    """On CUDA, memory freed from an earlier call would be subtracted from the peak."""
    lowest = []

    def watched(work, device):
        timing._allocations(work)  # only allocations made while profiling are seen again when freed
        lowest.append(min(accumulate(timing._allocations(work))))
        return peak_bytes(work, device)

    for module in (timing, importlib.import_module(f"benchmarks.{name}")):
        monkeypatch.setattr(module, "peak_bytes", watched, raising=False)
    run(name)
    assert lowest
    assert min(lowest) >= 0


def test_share_of_floor(monkeypatch):
    monkeypatch.setattr("benchmarks.step.byte_rate", lambda device: 1e9)
    monkeypatch.setattr("benchmarks.step.flop_rate", lambda device, dtype: 1e30)
    _, (row, *_) = run("step")
    cfg = compose("task=listops", "model=s4", "scale=smoke")
    moved = 12 * 2 * row["L"] * cfg.model.d_model * cfg.model.n_layers * 4 + 40 * row["parameters"]
    assert row["floor ms"] == pytest.approx(1e3 * moved / 1e9)
    assert row["share of floor"] == pytest.approx(row["floor ms"] / row["ms"])


def test_step_variants_are_compared_to_the_first(tmp_path):
    module, rows = run("step", *ONE_STEP, "--as", "float32", "bf16")
    assert [row["as"] for row in rows] == ["float32", "bf16"]
    # with one round, the ratio of medians is the median of ratios
    assert rows[1]["times as fast"] == pytest.approx(rows[0]["ms"] / rows[1]["ms"])
    assert rows[0]["times as fast"] == 1
    assert rows[1]["GB"] < rows[0]["GB"]
    module.plot(rows, tmp_path / "plot.png")


def test_profile_prints_operators_and_writes_a_trace(tmp_path, capsys):
    run("step", *ONE_STEP, "--profile", str(tmp_path / "trace.json"))
    assert "aten::" in capsys.readouterr().out
    assert json.loads((tmp_path / "trace_s4_listops.json").read_text())["traceEvents"]


def test_shares_of_the_ceilings(monkeypatch):
    """Work by the textbook count of one convolution, and the sums of one pole at one frequency."""
    monkeypatch.setattr("benchmarks.convolution.byte_rate", lambda device: 1e9)
    monkeypatch.setattr("benchmarks.options.arithmetic_ceiling", lambda: 1e9)
    _, (row,) = run("convolution", "--shapes", "1,16,64")
    assert row["forward, share of peak"] == pytest.approx(3 * 2.5 * 128 * 7 * 16 / (1e6 * row["forward ms"]))
    moved = (2 + 2) * 4 * 16 * 64
    assert row["forward, share of copy"] == pytest.approx(moved / (1e6 * row["forward ms"]))
    _, (row,) = run("kernel", "--backends", "compiled", "--H", "3", "--N", "4", "--L", "64")
    assert row["share of peak"] == pytest.approx((9 + 6 * 8) * 3 * 2 * 33 / (1e6 * row["forward ms"]))


def test_cold_kernels_are_built_again(monkeypatch):
    from lra.ops import cpp_library
    from lra.ops.ssm_kernels import cpp

    commands = []
    for function in (cpp_library.library, cpp.unavailable_reason):
        function.cache_clear()
    real = cpp_library.subprocess.run
    monkeypatch.setattr(cpp_library.subprocess, "run", lambda *a, **k: commands.append(a) or real(*a, **k))
    monkeypatch.setenv("XDG_CACHE_HOME", "nowhere")
    monkeypatch.setenv("TRITON_CACHE_DIR", "nowhere")
    _, rows = run("kernel", "--cold", "--backends", "compiled")
    # for one output and for two
    assert sum("-DREAL=float" in words[0] for words in commands) == 2
    assert rows[0]["first call s"] > 0.2


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("layer", ["--shapes", "2,4"], "--shapes 2,4: .*hint: 16,128,1024"),
        ("convolution", ["--shapes", "2,4,x"], "--shapes 2,4,x: "),
        ("layer", ["--shapes", "0,4,64"], "--shapes 0,4,64: "),
        ("step", ["--as", "float32", "graph"], "--as graph: .*hint: --device cuda"),
        ("model", ["--model", "transformer"], "transformer has no kernel backend"),
    ],
)
def test_bad_options_are_refused(name, words, message):
    with pytest.raises(ValueError, match=message):
        run(name, *words)


@pytest.mark.parametrize("words", [("--repeats", "0"), ("--threads", "-1")])
def test_counts_must_be_positive(words, capsys):
    with pytest.raises(SystemExit):
        run("kernel", *words)
    assert f"{words[0]}: '{words[1]}' is not a positive" in capsys.readouterr().err


def test_layer_errors_are_against_float64():
    """A layer whose float32 output is off by a thousandth has that error."""
    bench = importlib.import_module("benchmarks.layer")

    class Inaccurate(bench.S4):
        def mix(self, y):
            return super().mix(y) * (1.001 if y.dtype == torch.float32 else 1.0)

    torch.manual_seed(0)
    value, gradient = bench.relative_errors(Inaccurate(8, 32, d_state=4, backend="reference"), 32)
    assert value == pytest.approx(1e-3, rel=0.05)
    assert gradient == pytest.approx(1e-3, rel=0.2)


def test_calibration_stops_by_time(monkeypatch):
    sizes = []

    def work(n):
        sizes.append(n)
        return lambda: n / 2**13, n

    monkeypatch.setattr(step, "seconds", lambda work, device: work())
    assert step.rate(work, range(3, 14), torch.device("cpu")) == 2**13
    assert sizes[-2] / 2**13 < step.CALIBRATION < sizes[-1] / 2**13


def test_generation_is_relative_to_the_transformer_without_a_cache():
    module, rows = run("generate")
    slow, fast = rows
    assert slow["times the Transformer"] == 1
    assert fast["times the Transformer"] == pytest.approx(fast["tokens/s"] / slow["tokens/s"])
    cells = {(cell["row"], cell["column"]): cell["value"] for cell in module.figures(rows)}
    assert cells["S4", "one sequence, length 24"] == fast["times the Transformer"]
    assert cells["S4", "fastest batch, length 24"] == fast["times its fastest batch"]
    # with two points the cost of the sequence is the mean of both
    mean = (fast["ms at 0 %"] + fast["ms at 100 %"]) / 2
    assert fast["tokens/s"] == pytest.approx(1e3 / mean)
