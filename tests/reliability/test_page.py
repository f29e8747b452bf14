"""docs/reliability.md names tests that exist, and marks the nightly ones."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text()
SOURCES = [path.read_text() for path in TESTS.rglob("test_*.py")]


@pytest.mark.parametrize(("name", "nightly"), sorted(set(re.findall(r"`(test_\w+)`( \(\*nightly\*\))?", PAGE))))
def test_page_names_existing_tests(name, nightly):
    found = [re.search(rf"\n\n((?:@.*\n| .*\n|\).*\n)*)def {name}\(", source) for source in SOURCES]
    (decorators,) = [match[1] for match in found if match]
    assert ("@pytest.mark.nightly" in decorators) == bool(nightly)
