from __future__ import annotations

import pytest

from diffcache.extraction import group_size
from tests import tiny


@pytest.fixture(autouse=True)
def tried(monkeypatch):
    """A machine whose memory may not suffice: whatever it has free, group sizes are tried, in one call more."""
    monkeypatch.setattr(group_size, "_SURE", 0.0)


@pytest.fixture
def world(tmp_path):
    """A tiny experiment in a folder of its own."""
    return tiny.make(tmp_path / "world")
