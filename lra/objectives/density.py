"""Density estimation of quantised signals, one value after the other: bits per dimension."""

from dataclasses import replace
from typing import ClassVar

from lra.objectives.language import BITS, Language
from lra.objectives.objective import Metric


class Density(Language):
    """As language modelling; a token is one dimension of the signal, such as the red value of a pixel."""

    name = "density"
    metrics: ClassVar[tuple[Metric, ...]] = (replace(BITS, title="bits per dimension", decimals=2),)
    trivial_answer = "giving each value its frequency in the training data"


OBJECTIVE = Density()
