"""FNet against the transform written as matrices, and against the transformers library."""

import math

import pytest
import torch

from models.fnet import FNet


def dft(n):
    k = torch.arange(n, dtype=torch.float64)
    return torch.polar(torch.ones(n, n, dtype=torch.float64), -2 * math.pi * k[:, None] * k / n)


def test_each_row_gets_the_transform_of_its_own_length(assert_same, ragged):
    x, mask = ragged(6, 9, 4, 9, 1)
    rows = []
    for row, length in zip(x, mask.sum(1).tolist(), strict=True):
        y = (dft(length) @ row[:length].to(torch.complex128) @ dft(6)).real
        rows.append(torch.cat([y, torch.zeros(9 - length, 6, dtype=y.dtype)]))
    assert_same(FNet(6, 9)(x, mask), torch.stack(rows), [x], mask)


def test_equals_the_transformers_library(assert_same, ragged):
    library = pytest.importorskip("transformers.models.fnet.modeling_fnet")
    configuration = pytest.importorskip("transformers.models.fnet.configuration_fnet")
    theirs = library.FNetBasicFourierTransform(
        configuration.FNetConfig(hidden_size=6, use_tpu_fourier_optimizations=False)
    )
    x, mask = ragged(6, 10, 10)
    assert_same(FNet(6, 10)(x, mask), theirs(x)[0], [x], mask)
