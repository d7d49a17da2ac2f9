from __future__ import annotations

import pytest

from diffcache.cache import layout
from tests import tiny
from tests.two_workers import two_workers


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two workers, which are processes."""
    with two_workers() as opened:
        yield opened


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny experiment; its stores have ranges of 16 rows."""
    return tiny.make(tmp_path_factory.mktemp("distributed") / "world")


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch):
    """Ranges and chunks of few rows in the stores that are made."""
    monkeypatch.setattr(layout, "RANGE_ROWS", 16)
    monkeypatch.setattr(layout, "CHUNK_BYTES", 8 * 1024)
