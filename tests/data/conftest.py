"""Fixture of the data tests: small official sets."""

import pytest

from data import listops, pathfinder, retrieval


@pytest.fixture
def small(monkeypatch):
    """Official sets of a handful of examples."""
    monkeypatch.setattr(listops, "COUNTS", {"train": 30, "val": 10, "test": 10})
    monkeypatch.setattr(retrieval, "COUNTS", {"train": 12, "val": 4, "test": 4})
    monkeypatch.setattr(pathfinder, "COUNTS", {"train": 16, "val": 2, "test": 2})
    monkeypatch.setattr(pathfinder, "IMAGES", 20)
