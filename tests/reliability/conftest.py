"""Training processes for the tests of this folder."""

import pytest

from helpers.processes import starter


@pytest.fixture(scope="session")
def start():
    with starter() as made:
        yield made
