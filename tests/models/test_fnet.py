"""FNet against DFT matrices, and against the transformers library."""

import math

import torch
from transformers.models.fnet.configuration_fnet import FNetConfig
from transformers.models.fnet.modeling_fnet import FNetBasicFourierTransform

from helpers.comparison import assert_same, by_row, ragged
from models.fnet import FNet


def dft(n):
    k = torch.arange(n, dtype=torch.float64)
    return torch.polar(torch.ones(n, n, dtype=torch.float64), -2 * math.pi * k[:, None] * k / n)


def test_rows_are_transformed_at_their_own_length():
    x, mask = ragged(6, 9, 4, 9, 1)
    expected = by_row(lambda row: (dft(len(row)) @ row.to(torch.complex128) @ dft(6)).real, x, mask)
    assert_same(FNet(6, 9)(x, mask)[mask], expected, [x])


def test_equals_transformers_library():
    theirs = FNetBasicFourierTransform(FNetConfig(hidden_size=6, use_tpu_fourier_optimizations=False))
    x, mask = ragged(6, 10, 10)
    assert_same(FNet(6, 10)(x, mask), theirs(x)[0], [x])
