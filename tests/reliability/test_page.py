"""The page of promises names tests that exist, and fits a page."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text()


def test_every_test_named_on_the_page_exists():
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    written = {
        name for path in TESTS.rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert len(named) > 30
    assert named - written == set()


def decorators(name: str) -> str:
    """What stands before a test's definition."""
    (source,) = (p.read_text() for p in TESTS.rglob("test_*.py") if f"def {name}(" in p.read_text())
    return source[: source.index(f"def {name}(")].rsplit("\n\n\n", 1)[-1]


def test_what_is_marked_nightly_on_the_page_is_nightly_and_the_rest_is_not():
    marked = re.findall(r"`(test_\w+)`( \(\*nightly\*\))?", PAGE)
    assert [n for n, nightly in marked if bool(nightly) != ("@pytest.mark.nightly\n" in decorators(n))] == []


def test_the_page_is_one_page():
    assert len(PAGE.splitlines()) <= 100
