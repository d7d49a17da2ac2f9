from __future__ import annotations

import pytest

from tests import tiny


@pytest.fixture
def world(tmp_path):
    """A tiny experiment in a folder of its own."""
    return tiny.make(tmp_path / "world")
