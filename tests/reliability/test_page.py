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


def test_what_is_marked_nightly_on_the_page_is_nightly():
    for name in re.findall(r"`(test_\w+)` \(\*nightly\*\)", PAGE):
        (source,) = (p.read_text() for p in TESTS.rglob("test_*.py") if f"def {name}(" in p.read_text())
        assert "pytest.mark.nightly" in source[: source.index(f"def {name}(")].rsplit("\n\n\n", 1)[-1], name


def test_the_page_is_one_page():
    assert len(PAGE.splitlines()) <= 100
