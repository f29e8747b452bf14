"""Fixture that starts training processes."""

import pytest

from helpers.processes import starter


@pytest.fixture(scope="session")
def start():
    with starter() as start_process:
        yield start_process
