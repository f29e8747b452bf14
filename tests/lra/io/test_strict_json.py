"""JSON files are read as the standard has them, hold what every reader can hold, and are laid out for people."""

import math

import pytest

from lra.io.strict_json import check, decode
from lra.paths import ROOT
from lra.records.store import load

GOLDEN = ROOT / "tests" / "golden" / "record.json"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"b": 2, "a": 1, "a": 1}', "field 'a' is there twice"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "line 1: not JSON"),
    ],
)
def test_what_is_no_json_is_refused(text, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        decode(text)


@pytest.mark.parametrize(
    ("hint", "last", "beyond"),
    [(int, 2**63 - 1, 2**63), (int, -(2**63) + 1, -(2**63)), (float, 1e300, 1e301), (float, -1e300, -math.inf)],
)
def test_numbers_end_where_other_readers_do(hint, last, beyond):
    assert check(last, hint, "x") == last
    with pytest.raises(ValueError, match="x is "):
        check(beyond, hint, "x")


def test_half_a_character_is_no_text():
    assert check("\U0001d11e", str, "x") == "\U0001d11e"
    with pytest.raises(ValueError, match=r"x is .*: text is expected"):
        check("\ud834", str, "x")


def test_a_record_is_laid_out_as_it_stands():
    assert load(GOLDEN).text() == GOLDEN.read_text(encoding="utf-8")
