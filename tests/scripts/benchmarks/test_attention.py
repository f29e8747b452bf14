"""Benchmark of whole models: parameter budgets, ratios, and cells of the papers' tables."""

import argparse
import warnings

import pytest
import torch

from benchmarks import attention as bench
from helpers.compose import names
from lra.paths import RESULTS
from lra.records.benchmark import load_bench
from lra.records.published import load_published
from lra.tables.efficiency import efficiency_table

pytestmark = pytest.mark.slow


def parsed(*words):
    parser = argparse.ArgumentParser()
    bench.arguments(parser)
    return parser.parse_args(words)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    words = "--setting s4 lra --models linear_transformer --lengths 64 512 --repeats 1 --tables"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more are slower on small tensors
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = bench.run(parsed(*words.split(), str(folder)))
    torch.set_num_threads(threads)
    return rows, folder


def test_rows_of_every_model_and_length(measured):
    rows, _ = measured
    models = [bench.REFERENCE, bench.FUSED, "linear_transformer"]
    found = [(r["setting"], r["L"], r["model"]) for r in rows]
    assert found == [(s, length, m) for s in ("s4", "lra") for length in (64, 512) for m in models]
    for r in rows:
        if r["model"] == bench.REFERENCE:
            assert r["speed x"] == r["memory x"] == 1.0


def test_stored_weights_take_most_memory(measured):
    memory = {r["model"]: r["MB"] for r in measured[0] if r["L"] == 512 and r["setting"] == "s4"}
    assert memory["transformer"] > 1.5 * memory["transformer, fused"]
    assert memory["transformer"] > 1.5 * memory["linear_transformer"]


def test_parameter_budget(measured):
    for r in measured[0]:
        if r["setting"] == "s4":
            assert 0.85 * 600_000 < r["parameters"] < 1.02 * 600_000
    lra = {r["model"]: r["parameters"] for r in measured[0] if r["setting"] == "lra"}
    assert lra["linear_transformer"] == lra["transformer"]


@pytest.mark.parametrize("name", ["mamba", "mega_chunk"])
def test_width_meets_budget_without_feed_forward(name):
    assert 0.8 < bench.encoder_parameters(bench.build(name, "s4", 1024)) / 600_000 < 1.1


def test_growth_relative_to_shortest_length(measured):
    for r in measured[0]:
        same = [o for o in measured[0] if (o["setting"], o["model"]) == (r["setting"], r["model"])]
        assert r["ms / shortest"] == r["ms"] / same[0]["ms"]
    assert measured[0][0]["ms / shortest"] == 1.0


def test_papers_tables_show_the_cells(measured):
    rows, folder = measured
    published = load_published(RESULTS / "published")
    benches = load_bench(folder)
    assert sorted(b.table for b in benches) == ["LRA Table 2", "S4 Table 3"]
    linear = next(r for r in rows if r["model"] == "linear_transformer" and r["L"] == 512)
    cells = {(f.row, f.column): f.value for b in benches for f in b.rows}
    assert cells["Linear Trans.", "speed, length 512"] == pytest.approx(linear["speed x"])
    for name in ("s4_table3", "lra_table2"):
        names = [line[0].text for line in efficiency_table(name, benches, published).rows]
        # below the paper's row, not under another name
        assert names.index("↳ here: Linear Trans.") == names.index("Linear Trans. (paper)") + 1


@pytest.mark.parametrize(("model", "row"), [("s4", "S4"), ("performer", "Performer"), ("fnet", "FNet")])
def test_published_names(model, row):
    line = {"model": model, "L": 4096, "ms": 250.0, "MB": 900.0, "speed x": 5.0, "memory x": 0.1}
    assert [(f.row, f.column, f.value) for f in bench.figures([line], "s4")] == [
        (row, "speed, length 4096", 5.0),
        (row, "memory, length 4096", 0.1),
    ]
    assert [(f.row, f.column, f.value) for f in bench.figures([line], "lra")] == [
        (row, "steps/s, 4K", 4.0),
        (row, "GB, 4K", 0.9),
    ]


def test_all_models_are_those_that_run_on_every_task():
    assert sorted([*bench.all_models(), bench.REFERENCE]) == names("model")


def test_models_that_do_not_fit_are_skipped(capsys):
    assert bench.predicted({1024: 1.0, 2048: 4.0}, 8192) == pytest.approx(64.0)
    assert bench.predicted({1024: 1.0}, 8192) == 0.0
    assert bench.prepared("transformer", "s4", 4096, {1024: 1e9, 2048: 4e9}, 12e9, parsed()) is None
    assert capsys.readouterr().out == "s4 4096 transformer: skipped, would need 16 GB\n"


def test_plot(measured, tmp_path):
    bench.plot(measured[0], tmp_path / "attention.png")
    assert (tmp_path / "attention.png").stat().st_size > 10_000
