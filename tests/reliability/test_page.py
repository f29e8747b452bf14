"""docs/reliability.md and docs/layers.md name tests that exist, and mark the nightly ones."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGES = "".join((TESTS.parent / "docs" / name).read_text() for name in ("reliability.md", "layers.md"))
SOURCES = [path.read_text() for path in TESTS.rglob("test_*.py")]


@pytest.mark.parametrize(("name", "nightly"), sorted(set(re.findall(r"`(test_\w+)`( \(\*nightly\*\))?", PAGES))))
def test_pages_name_existing_tests(name, nightly):
    found = [re.search(rf"\n\n((?:@.*\n| .*\n|\).*\n)*)def {name}\(", source) for source in SOURCES]
    decorators = [match[1] for match in found if match]
    assert decorators
    assert all(("@pytest.mark.nightly" in lines) == bool(nightly) for lines in decorators)
