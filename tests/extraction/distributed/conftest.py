from __future__ import annotations

import pytest

from diffcache.cache import layout
from diffcache.compute.cluster import ClusterAddress, open_cluster
from tests import tiny
from tests.benchmarks.cluster import one_thread


@pytest.fixture(scope="module", autouse=True)
def threads():
    """One in each process: another number may move last bits."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def cluster(threads):
    """Two workers on this machine, which are processes."""
    with open_cluster(ClusterAddress.parse("local:2")) as opened:
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
