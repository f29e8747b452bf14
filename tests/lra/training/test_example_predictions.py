"""Example predictions and kernel snapshots of a record: true to the test and the model, and small."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from data.generators.listops import evaluate, from_text
from helpers.finished_run import small_run
from helpers.records import replace
from lra.paths import ROOT
from lra.records.pictures import grey, signed
from lra.records.record import Example
from lra.records.store import load
from lra.training import example_predictions, kernel_snapshots

GOLDEN = load(ROOT / "tests" / "golden" / "record.json")


def test_examples_agree_with_the_test(tmp_path, monkeypatch):
    for limit in ("N_EXAMPLES", "MAX_TOTAL"):
        monkeypatch.setattr(example_predictions, limit, 10**6)
    record = small_run(tmp_path, "training.steps=20")
    assert len(record.examples) == record.test_totals["examples"]
    assert sum(e.label == e.predicted for e in record.examples) == record.test_totals["correct"] > 0
    assert len({e.text for e in record.examples}) > record.test_totals["examples"] // 2
    assert all(evaluate(from_text(e.text)) == e.label for e in record.examples)
    assert all(0.1 <= e.probability <= 1 for e in record.examples)


@pytest.mark.parametrize("task", ["pathfinder", "image", "retrieval"])
def test_record_with_examples_is_small(task, tmp_path):
    record = small_run(tmp_path, f"task={task}", "model=s4", "model.mixer.backend=reference")
    assert record.examples
    assert all((e.text is None) != (e.picture is None) for e in record.examples)
    assert len(record.text()) < 30_000
    content = "".join((e.text or "") + (e.picture or "") for e in record.examples)
    assert len(content) < 10_000
    assert {k.picture_after is not None for k in record.kernels} == {task in ("pathfinder", "image")}


def test_examples_are_not_redacted_as_paths(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16), np.uint8)
    picture = grey(pixels)
    assert picture.count("/") > 2
    given = [Example(label=1, predicted=0, text="worse than /any/of/them", picture=None)]
    given += [Example(label=1, predicted=0, picture=picture)]
    replace(GOLDEN, examples=given).write(tmp_path / "0.json")
    assert load(tmp_path / "0.json").examples == given


def opened(picture: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(picture)))


def test_grey_picture_keeps_the_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    assert (np.asarray(opened(grey(pixels))) == pixels).all()
    assert opened(grey(np.zeros((128, 128), np.uint8))).size == (64, 64)


def test_signed_picture_is_transparent_at_zero():
    values = np.array([[-1.0, 0.0], [0.5, 1.0]])
    rgba = np.asarray(opened(signed(values)).convert("RGBA"))
    assert rgba[0, 1, 3] == 0
    assert rgba[0, 0, 3] == rgba[1, 1, 3] == 255 > rgba[1, 0, 3] > 0
    assert rgba[0, 0, 0] > rgba[0, 0, 2]
    assert rgba[1, 1, 2] > rgba[1, 1, 0]


@pytest.mark.parametrize("length", [1, 2, 9, 100, 16_384])
def test_envelope_bounds_every_value(length):
    kernel = np.random.default_rng(0).normal(size=length)
    starts = kernel_snapshots.ranges(length)
    assert starts[0] == 0
    assert len(starts) <= kernel_snapshots.RANGES
    assert starts[-1] < length
    low, high = kernel_snapshots.envelope(kernel, starts)
    for at, a, b in zip(np.split(kernel, starts[1:]), low, high, strict=True):
        assert (a, b) == pytest.approx((at.min(), at.max()), rel=5e-3)


def test_first_and_last_kernel_are_kept(tmp_path):
    record = small_run(tmp_path, "model=s4", "model.mixer.backend=reference", "training.steps=8", "model.n_layers=3")
    assert {k.layer for k in record.kernels} == {0, 2}
    assert all(k.before != k.after for k in record.kernels)
    assert small_run(tmp_path / "other").kernels == []


def test_other_methods_named_kernel_are_ignored():
    class FeatureMap(torch.nn.Module):
        def kernel(self, x):
            raise AssertionError(x)

    class Short(torch.nn.Module):
        def kernel(self, length: int) -> torch.Tensor:
            return torch.ones(length)

    class Long(torch.nn.Module):
        def kernel(self, length: "int"):
            return torch.ones(2, 3, length)

    assert kernel_snapshots.forward_kernels(torch.nn.Sequential(FeatureMap(), Short()), 8) == {}
    kernels = kernel_snapshots.forward_kernels(torch.nn.Sequential(FeatureMap(), Long()), 8)
    assert {i: k.shape for i, k in kernels.items()} == {0: (3, 8)}


def test_non_finite_kernels_are_left_out():
    good, bad = torch.ones(4, 8), torch.full((4, 8), float("nan"))
    kept = kernel_snapshots.before_and_after({0: good, 1: good}, {0: 2 * good, 1: bad}, picture=False)
    assert {k.layer for k in kept} == {0}
