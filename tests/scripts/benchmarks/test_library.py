"""Comparison with libraries: every pair runs and has equal size."""

import argparse

import pytest

from benchmarks import library as bench
from helpers.compose import names
from lra.profiling.parameters import count_parameters


def parsed(*words):
    parser = argparse.ArgumentParser()
    bench.arguments(parser)
    return parser.parse_args(words)


def check(rows):
    for row in rows:
        assert row["times as fast"] == pytest.approx(row["library ms"] / row["ms"])
        assert min(row["MB"], row["library MB"]) > 0
        assert row["parameters"] == row["library parameters"]


@pytest.mark.nightly
def test_pairs_have_equal_size():
    assert {name.removesuffix("_unpacked") for name in bench.PAIRS} <= set(names("model"))
    for ours, theirs in bench.PAIRS.values():
        assert count_parameters(ours(64, 1024, 2)) == count_parameters(theirs(64, 2, 1, 1024))


def test_two_pairs_run():
    words = "--models transformer fnet --lengths 128 256 --B 1 --D 32 --repeats 1 --threads 1"
    rows = bench.run(parsed(*words.split()))
    assert [(row["model"], row["L"]) for row in rows] == [(m, n) for m in ("transformer", "fnet") for n in (128, 256)]
    check(rows)


@pytest.mark.nightly
def test_every_pair_runs():
    words = "--lengths 1024 --B 1 --D 64 --heads 2 --repeats 1 --threads 1"
    rows = bench.run(parsed(*words.split()))
    assert [row["model"] for row in rows] == list(bench.PAIRS)
    check(rows)


def test_cuda_is_refused():
    with pytest.raises(ValueError, match="--device cuda"):
        bench.run(parsed("--device", "cuda"))
