"""JSON files are read strictly, and hold only what every reader can hold."""

import math
from dataclasses import dataclass

import pytest

from lra.io.strict_json import check, decode


@dataclass
class Size:
    width: int
    depth: int | None = None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "a is nan"),
        ('{"a": [0, -Infinity]}', r"a\[1\] is -inf"),
        ('{"a": 1e999}', "a is inf"),
        ('{"b": 2, "a": 1, "a": 1}', "field 'a' occurs twice"),
        ('{"a": "\\ud834"}', r"a is '\\ud834', which"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "line 1: not JSON"),
    ],
)
def test_invalid_json_is_refused(text, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        decode(text)


@pytest.mark.parametrize(
    ("hint", "last", "beyond"),
    [(int, 2**63 - 1, 2**63), (int, -(2**63) + 1, -(2**63)), (float, 1e300, 1e301), (float, -1e300, -math.inf)],
)
def test_numbers_stay_within_64_bits(hint, last, beyond):
    assert check(last, hint, "x") == last
    with pytest.raises(ValueError, match="x is "):
        check(beyond, hint, "x")


def test_unicode_outside_the_basic_plane_is_text():
    assert check("\U0001d11e", str, "x") == "\U0001d11e"


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("1", int, "x is '1': input should be a valid integer"),
        (True, float, "x is True: input should be a valid number"),
        ({"a": [1.0, "b"]}, dict[str, list[float]], r"x\.a\[1\] is 'b': input should be a valid number"),
        ({"a": {"b": math.nan}}, dict, r"x\.a\.b is nan, which JSON cannot hold"),
        ({"width": 1}, Size, r"x\.depth is missing"),
        ({"width": 1, "depth": None, "height": 2}, Size, r"x\.height is not a known field"),
    ],
)
def test_wrong_types_name_field_and_value(value, hint, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check(value, hint, "x")


def test_dataclasses_are_built_from_objects():
    assert check({"width": 1, "depth": None}, Size, "x") == Size(1)
