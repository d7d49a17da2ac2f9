"""Stores of each format, with several chunks out of few rows."""

from __future__ import annotations

import pytest

from diffcache.cache import layout


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", 48 * 1024)


@pytest.fixture(params=["zarr", "hdf5"])
def format(request: pytest.FixtureRequest) -> str:
    return request.param
